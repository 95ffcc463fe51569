"""Narrow detectors of configurations that no run names, and what their heads' tests feed them."""

from collections.abc import Iterable

import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.structures import InstanceData
from torch import Tensor, nn

from tood.engine.config import resolve
from tood.study.plan import Plan

CLASSES = [{"id": number, "name": str(number)} for number in range(5)]
CHANNELS = 16
STRIDES = (8, 16, 32, 64, 128)
# Image sizes (height, width): the second is padded to the first.
SIZE, PADDED = (128, 160), (70, 101)


def objects(*boxes: Iterable[float], labels: list[int] | None = None) -> InstanceData:
    return InstanceData(
        bboxes=torch.tensor(boxes, dtype=torch.float).reshape(-1, 4),
        labels=torch.tensor(labels if labels is not None else range(len(boxes)), dtype=torch.long),
    )


def meta(img_shape=SIZE, pad_shape=SIZE) -> dict:
    return dict(img_shape=img_shape, pad_shape=pad_shape, ori_shape=img_shape, scale_factor=(1.0, 1.0))


SEVERAL = objects([3, 3, 30, 40], [50, 20, 120, 90], [40, 40, 60, 60], [0, 0, 160, 128])
OVERLAPPING = objects([10, 10, 70, 64], [20, 16, 76, 68], labels=[2, 2])
GTS = [SEVERAL, OVERLAPPING]
METAS = [meta(), meta(PADDED, (72, 104))]


def hard_cases() -> dict[str, InstanceData]:
    """Images that have nothing in common with an ordinary one."""
    generator = torch.Generator().manual_seed(2)
    corners = torch.rand(500, 2, generator=generator) * torch.tensor([140.0, 110.0])
    many = torch.cat([corners, corners + 2 + torch.rand(500, 2, generator=generator) * 30], 1)
    of_many = torch.randint(0, 5, (500,), generator=generator).tolist()
    return {
        "empty": objects(),
        "500 objects": objects(*many.tolist(), labels=of_many),
        "tiny": objects([9.3, 9.3, 10.1, 10.1], [20, 20, 20.001, 20.001], [77.2, 41.9, 77.9, 60.2]),
        "without area": objects([40, 40, 40, 40], [50, 20, 50, 90], labels=[0, 1]),
        "30 alike": objects(*[[40.0, 30, 90, 80]] * 30, labels=[2] * 30),
        "at the border": objects([150, 120, 160, 128], [0, 0, 1, 128], [0, 0, 160, 128]),
        "outside": objects([300, 300, 340, 350], [-50, -40, -10, -5]),
    }


def features(size=SIZE, batch=2, strides=STRIDES, channels=CHANNELS) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(
        torch.randn(batch, channels, -(-size[0] // s), -(-size[1] // s), generator=generator) for s in strides
    )


def configuration(name: str, scale: str = "paper", heads: dict | None = None) -> Config:
    """A file of `experiments/configs` resolved as a run's would be.

    Args:
        name: of the file.
        scale: of `experiments/scales`.
        heads: changes that the scale would make to the head.
    """
    settings = Plan({"scale": scale}).settings("retinanet")
    settings["run"] |= {"config": name, "options": {}}
    config = resolve(settings, CLASSES, None)
    config.model.bbox_head.merge(heads or {})
    return config


def narrow_head(name: str, **changes: object) -> nn.Module:
    """The head of a configuration, narrow, with random weights large enough for every part to matter.

    Args:
        name: of the file.
        changes: of the head's configuration.
    """
    model = configuration(name).model
    narrow = dict(in_channels=CHANNELS, feat_channels=CHANNELS, stacked_convs=2)
    if "norm_cfg" in model.bbox_head:
        narrow["norm_cfg"] = dict(num_groups=4)
    model.bbox_head.merge(narrow | changes)
    settings = {key: model.get(key) for key in ("train_cfg", "test_cfg")}
    head = MODELS.build({**model.bbox_head, **settings})
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter_name, parameter in head.named_parameters():
            if not parameter_name.endswith("scale"):
                parameter.copy_(torch.randn_like(parameter) * 0.15)
    return head.train()
