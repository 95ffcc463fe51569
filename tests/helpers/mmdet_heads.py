"""mmdet's own heads beside those of this suite, in float64, and what is compared of the two."""

from pathlib import Path

import mmdet
import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config, ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor, nn

from helpers.point_heads import CHANNELS, CLASSES

MMDET_CONFIGS = Path(mmdet.__file__).parent / ".mim" / "configs"


def narrow_mmdet_head(file: str, **changes: object) -> nn.Module:
    """The head of one of mmdet's configurations, as narrow as `narrow_head` makes ours, weights undrawn.

    Args:
        file: of mmdet's folder of configurations.
        changes: of the head's configuration.
    """
    model = Config.fromfile(MMDET_CONFIGS / file).model
    narrow = dict(num_classes=len(CLASSES), in_channels=CHANNELS, feat_channels=CHANNELS, stacked_convs=2)
    model.bbox_head.merge(narrow | dict(norm_cfg=dict(type="GN", num_groups=4)) | changes)
    settings = {key: model.get(key) for key in ("train_cfg", "test_cfg")}
    return MODELS.build({**model.bbox_head, **settings})


def doubled(gts: list[InstanceData]) -> list[InstanceData]:
    return [InstanceData(bboxes=gt.bboxes.double(), labels=gt.labels) for gt in gts]


def total(losses: dict) -> dict[str, Tensor]:
    return {name: sum(value) if isinstance(value, list) else value for name, value in losses.items()}


def assert_same_losses(found: dict, expected: dict) -> None:
    found, expected = total(found), total(expected)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-12, msg=name)


def assert_same_gradients(ours: nn.Module, theirs: nn.Module) -> None:
    of_theirs = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, of_theirs[name].grad, rtol=1e-9, atol=1e-12, msg=name)


def detections(ours: nn.Module, theirs: nn.Module, outs: tuple, metas: list[dict]) -> tuple[list, list]:
    """Ours and mmdet's, both with mmdet's rule of what goes into NMS, of 100 pairs per level."""
    cfg = ConfigDict({**ours.test_cfg, "nms_pre": 100, "nms_pre_by": "pair"})
    found = ours.predict_by_feat(*outs, batch_img_metas=metas, cfg=cfg, rescale=True)
    cfg = ConfigDict({**theirs.test_cfg, "nms_pre": 100})
    return found, theirs.predict_by_feat(*outs, batch_img_metas=metas, cfg=cfg, rescale=True)


def assert_same_detections(found: list[InstanceData], expected: list[InstanceData]) -> None:
    for a, b in zip(found, expected, strict=True):
        assert len(a.scores) == len(b.scores) > 10
        torch.testing.assert_close(a.scores, b.scores, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(a.bboxes, b.bboxes, rtol=1e-9, atol=1e-9)
        assert torch.equal(a.labels, b.labels)


def equals_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """mmdet's `sort` leaves the order of equals to the processor; here it is that of the list."""
    sort = torch.sort
    monkeypatch.setattr(torch, "sort", lambda x, **options: sort(x, stable=True, **options))
    monkeypatch.setattr(torch.Tensor, "sort", lambda x, **options: sort(x, stable=True, **options))
