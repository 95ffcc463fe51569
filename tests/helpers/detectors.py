"""A narrow detector of each kind, and a batch for it."""

import copy
import functools

import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.structures import InstanceData

from tood.engine.config import build_model, resolve
from tood.study.plan import Plan

CATEGORIES = [{"id": number, "name": str(number)} for number in range(1, 6)]
DEFORMABLE = {
    "model.bbox_head.num_dcn": 2,
    "model.backbone.depth": 50,  # the blocks of shallower ones take no deformable convolution
    "model.neck.in_channels": [64, 128, 256],
    "model.backbone.dcn": dict(type="tood.ModulatedDeformConv2d", deform_groups=1),
    "model.backbone.stage_with_dcn": (False, True, True),
}


def models() -> dict[str, tuple[str, dict]]:
    """Name: run and its changes. Of runs that differ in numbers of the assignment alone, the first."""
    numbers = ("model.train_cfg.alpha", "model.train_cfg.beta", "model.train_cfg.assigner.topk")
    wirings = {}
    for run in Plan({}).runs:
        options = {key: value for key, value in run.options.items() if key not in numbers}
        wirings.setdefault((run.config, str(options)), run.id)
    return {run: (run, {}) for run in wirings.values()} | {"tood_af with DCN": ("tood_af", DEFORMABLE)}


MODELS = models()


def batch(sizes=((64, 64), (50, 60))) -> dict:
    """Random images, (height, width), with several objects in the first and none in the last."""
    generator = torch.Generator().manual_seed(0)
    inputs, samples = [], []
    for number, (height, width) in enumerate(sizes):
        boxes = torch.tensor([[4.0, 6, 40, 50], [20, 10, 60, 33], [30, 30, 39, 38]])
        labels = torch.tensor([0, 4, 2])
        kept = slice(0, None if number == 0 else 0)
        shapes = dict(img_shape=(height, width), ori_shape=(height, width))
        meta = dict(img_id=number, scale_factor=(1.0, 1.0)) | shapes
        sample = DetDataSample(metainfo=meta)
        sample.gt_instances = InstanceData(bboxes=boxes[kept], labels=labels[kept])
        sample.ignored_instances = InstanceData(bboxes=boxes[:0], labels=labels[:0])
        inputs.append(torch.randint(256, (3, height, width), generator=generator, dtype=torch.uint8))
        samples.append(sample)
    return dict(inputs=inputs, data_samples=samples)


def configuration(name: str) -> Config:
    """The resolved configuration of one of `MODELS`."""
    return copy.deepcopy(_configuration(name))


@functools.cache
def _configuration(name: str) -> Config:
    run, options = MODELS[name]
    settings = Plan({}).settings(run)
    settings["run"]["options"] |= options
    return resolve(settings, CATEGORIES, None)


@functools.cache
def _initial_model(name: str):
    torch.manual_seed(0)
    model = build_model(configuration(name))
    model.init_weights()
    return model, torch.get_rng_state()


def build(name: str):
    """One of `MODELS` with its initial weights; what is drawn afterwards is the same at each call, too."""
    model, state = _initial_model(name)
    torch.set_rng_state(state)
    return copy.deepcopy(model)
