"""A whole step of training: TOOD with ResNet-50, as this package does it and as mmdet does."""

import copy
from typing import NamedTuple

import torch
from mmdet.models.detectors import SingleStageDetector
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.inputs import CLASSES, objects
from tood.data.loading import LocalBatch
from tood.engine.config import build_model, place_anchors, resolve
from tood.engine.optimizer import build_optimizer
from tood.engine.replicas import batch_gradient, predict
from tood.study.plan import Plan

IMAGES, OBJECTS = 2, 7
RATE = 1e-4  # weights hardly change, so that each step is like the first


class Step(NamedTuple):
    """What a step found."""

    loss: Tensor
    gradient: Tensor  # of the backbone's last convolution


def detectors(
    ours: torch.nn.Module, theirs: torch.nn.Module, device: torch.device
) -> tuple[SingleStageDetector, SingleStageDetector]:
    """The detector of the run `tood_af` with each of two heads, on equal backbones and necks."""
    config = _config()
    torch.manual_seed(0)
    first = build_model(config)
    first.init_weights()
    second = copy.deepcopy(first)
    first.bbox_head, second.bbox_head = ours, theirs
    place_anchors(ours, device)
    return first.to(device).train(), second.to(device).train()


def _config():
    categories = [{"id": number + 1, "name": str(number)} for number in range(CLASSES)]
    return resolve(Plan({"scale": "paper"}).settings("tood_af"), categories, None)


def batch(size: tuple[int, int]) -> dict:
    """Images of noise with objects, as the loader gives them."""
    generator = torch.Generator().manual_seed(0)
    inputs, samples = [], []
    for _ in range(IMAGES):
        sample = DetDataSample(metainfo=dict(img_shape=size, ori_shape=size, scale_factor=(1.0, 1.0)))
        sample.gt_instances = objects(OBJECTS, size, generator)
        none = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
        sample.ignored_instances = none
        samples.append(sample)
        inputs.append(torch.randint(256, (3, *size), dtype=torch.uint8, generator=generator))
    return {"inputs": inputs, "data_samples": samples}


def steps(ours: torch.nn.Module, theirs: torch.nn.Module, size: tuple[int, int], device: torch.device):
    """Our step and mmdet's, and the operations that either needs."""
    first, second = detectors(ours, theirs, device)
    data = batch(size)
    settings = copy.deepcopy(_config().train)
    settings.lr = RATE
    optimizers = [build_optimizer(model, settings) for model in (first, second)]

    def run_ours() -> Step:
        losses = batch_gradient(first, LocalBatch([data], 1))
        return _end(first, optimizers[0], losses["loss"])

    def run_theirs() -> Step:
        second.zero_grad(set_to_none=True)
        loss, _ = second.parse_losses(second(**second.data_preprocessor(data, training=True), mode="loss"))
        loss.backward()
        return _end(second, optimizers[1], loss)

    return run_ours, run_theirs, _flops(first, size)


def _end(model: SingleStageDetector, optimizer: torch.optim.Optimizer, loss: Tensor) -> Step:
    optimizer.step()
    return Step(loss.detach(), model.backbone.layer4[-1].conv3.weight.grad)


def _flops(model: SingleStageDetector, size: tuple[int, int]) -> float:
    """Of the network, forward and backward, counted without computing."""
    shape = [-(-side // 32) * 32 for side in size]
    counted = copy.deepcopy(model).to("meta")
    with FlopCounterMode(display=False) as counter:
        outs = predict(counted, torch.empty(IMAGES, 3, *shape, device="meta"))
        sum(level.sum() for kind in outs for level in kind).backward()
    return counter.get_total_flops()


def same_step(ours: Step, theirs: Step) -> None:
    """Raises AssertionError where the two did not learn the same."""
    torch.testing.assert_close(ours.loss, theirs.loss, rtol=2e-5, atol=0)
    assert (ours.gradient - theirs.gradient).norm() <= 1e-3 * theirs.gradient.norm()
