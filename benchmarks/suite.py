"""What is measured: each benchmark with its peer, its target and the least that any code would need."""

import os
import tempfile
from collections.abc import Iterator
from functools import partial

import torch
import torchvision
from mmdet.models.dense_heads import TOODHead as MMDetTOODHead
from mmdet.models.dense_heads import tood_head as mmdet_tood_head
from mmengine import ConfigDict, MessageHub
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.evaluation import coco_ap, statistics
from benchmarks.inputs import CLASSES, STRIDES, features, predictions
from benchmarks.loader import loader
from benchmarks.pair import FLOAT, Benchmark, Pair
from benchmarks.step import IMAGES, same_step, steps
from tood.evaluation.released import convert
from tood.heads import TOODHead

WARM_UP_EPOCHS = 4
CHANNELS = 256


def suite(
    size: tuple[int, int], batches: dict[int, list[int]], crowd: int, evaluated: int
) -> Iterator[Benchmark]:
    """All benchmarks.

    Args:
        size: height and width of the images.
        batches: for each number of images, the numbers of objects per image.
        crowd: objects per image whose memory alone is of interest.
        evaluated: images whose AP is computed.
    """
    once = "scores read, gradient written"
    for phase, target in (("aligned", 3.0), ("warm-up", 2.0)):
        for batch, numbers in batches.items():
            for number in numbers:
                yield Benchmark(
                    f"loss/{phase}/{batch}x{number}",
                    f"targets, loss and gradient, {phase}, {batch} images of {number} objects",
                    "mmdet TOODHead",
                    target,
                    once,
                    partial(_loss, phase, batch, number, size),
                )
    batch = max(batches)
    yield Benchmark(
        f"loss/aligned/{batch}x{crowd}",
        f"the same, aligned, {batch} images of {crowd} objects",
        "none",
        None,
        once,
        partial(_loss, "aligned", batch, crowd, size, with_peer=False),
    )
    for number in batches[batch]:
        yield Benchmark(
            f"targets/{batch}x{number}",
            f"targets alone, aligned, {batch} images of {number} objects",
            "Ultralytics TaskAlignedAssigner",
            1.0,
            "a score for each object and anchor read",
            partial(_targets, batch, number, size),
        )
    yield Benchmark(
        "t_head",
        f"TOOD's head, forward and backward, 1 image of {size[0]} x {size[1]}",
        "mmdet TOODHead",
        1.3,
        "arithmetic at the rate of a matrix product",
        partial(_t_head, size),
    )
    yield Benchmark(
        "statistics",
        "PCC, IoU and boxes without threshold of Table 6 under all readings, 8 images of 7 objects",
        "none",
        None,
        "scores read",
        partial(statistics, size),
        images_per_second=20,
    )
    yield Benchmark(
        "coco_ap",
        f"COCO AP of {evaluated} images with 100 detections each, files read",
        "pycocotools",
        None,
        "none",
        partial(coco_ap, evaluated),
        images_per_second=500,
    )
    yield Benchmark(
        "loader",
        f"one process of the loader, photographs of 640 x 480 to {size[0]} x {size[1]}",
        "none",
        None,
        "pixels written",
        partial(loader, size),
    )
    yield Benchmark(
        "step",
        f"step of training, ResNet-50, {IMAGES} images of {size[0]} x {size[1]}",
        "mmdet TOODHead",
        1.15,
        "arithmetic at the rate of a matrix product",
        partial(_step, size),
        least_repeats=2,  # each takes most of a minute on a CPU
    )


def heads(phase: str, device: torch.device) -> tuple[TOODHead, MMDetTOODHead]:
    """TOOD's head as in the paper and mmdet's, with the same weights, in a phase of training."""
    config = dict(
        num_classes=CLASSES,
        in_channels=CHANNELS,
        stacked_convs=6,
        feat_channels=CHANNELS,
        norm_cfg=dict(type="GN", num_groups=32),
        anchor_type="anchor_free",
        anchor_generator=dict(
            type="AnchorGenerator", ratios=[1.0], octave_base_scale=8, scales_per_octave=1, strides=STRIDES
        ),
        bbox_coder=dict(type="DeltaXYWHBBoxCoder", target_means=[0.0] * 4, target_stds=[0.1, 0.1, 0.2, 0.2]),
        initial_loss_cls=dict(
            type="FocalLoss", use_sigmoid=True, activated=True, gamma=2.0, alpha=0.25, loss_weight=1.0
        ),
        loss_cls=dict(type="QualityFocalLoss", use_sigmoid=True, activated=True, beta=2.0, loss_weight=1.0),
        loss_bbox=dict(type="GIoULoss", loss_weight=2.0),
    )
    train_cfg = dict(
        initial_epoch=WARM_UP_EPOCHS,
        assigner=dict(type="TaskAlignedAssigner", topk=13),
        alpha=1,
        beta=6,
        allowed_border=-1,
        pos_weight=-1,
    )
    torch.manual_seed(0)
    theirs, ours = (
        head(
            **config,
            train_cfg=ConfigDict(train_cfg, initial_assigner=dict(type=assigner, topk=9)),
            test_cfg=ConfigDict(),
        ).to(device)
        for head, assigner in ((MMDetTOODHead, "ATSSAssigner"), (TOODHead, "tood.ATSSAssigner"))
    )
    theirs.init_weights()
    ours.load_state_dict(convert(theirs.state_dict()))
    epoch = {"warm-up": 0, "aligned": WARM_UP_EPOCHS}[phase]
    MessageHub.get_current_instance().update_info("epoch", epoch)
    ours.set_epoch(epoch)
    # mmdet's calls a compiled operator of mmcv, which a plain installation lacks; this one is compiled too.
    mmdet_tood_head.deform_conv2d = _deform_conv2d
    return ours, theirs


def _deform_conv2d(
    x: Tensor, offset: Tensor, weight: Tensor, stride: int, padding: int, dilation: int, *_: int
):
    return torchvision.ops.deform_conv2d(x, offset, weight, None, stride, padding, dilation)


def _loss(
    phase: str, batch: int, number: int, size: tuple[int, int], device: torch.device, with_peer: bool = True
) -> Pair:
    ours, theirs = heads(phase, device)
    inputs = predictions(batch, number, size, device)

    def run(head: TOODHead | MMDetTOODHead) -> tuple[dict[str, Tensor], list[Tensor]]:
        scores, boxes = inputs.leaves()
        losses = head.loss_by_feat(scores, boxes, inputs.gts, inputs.metas)
        losses = {name: sum(loss) if isinstance(loss, list) else loss for name, loss in losses.items()}
        sum(losses.values()).backward()
        # Where no box of a level is positive, one of the two gives no gradient and the other zeros.
        gradients = [torch.zeros_like(x) if x.grad is None else x.grad for x in (*scores, *boxes)]
        return {name: loss.detach() for name, loss in losses.items()}, gradients

    elements = sum(level.numel() for level in inputs.scores)
    peer, skipped = (partial(run, theirs), None) if with_peer else (None, "memory alone is of interest")
    return Pair(partial(run, ours), peer, _same_losses, bytes=2 * FLOAT * elements, skipped=skipped)


def _same_losses(ours: tuple, theirs: tuple) -> None:
    for name, loss in theirs[0].items():
        torch.testing.assert_close(ours[0][name], loss, rtol=2e-5, atol=0)  # the rounding of mmdet's sums
    for mine, other in zip(ours[1], theirs[1], strict=True):
        assert (mine - other).norm() <= 1e-5 * other.norm() + 1e-12


def _targets(batch: int, number: int, size: tuple[int, int], device: torch.device) -> Pair:
    assigner = _ultralytics_assigner()
    ours, _ = heads("aligned", device)
    inputs = predictions(batch, number, size, device)
    pixels = torch.cat([x.flatten(2) * s for x, s in zip(inputs.boxes, STRIDES, strict=True)], 2)  # [B, 4, A]
    priors = ours.prior_generator.grid_priors([tuple(x.shape[-2:]) for x in inputs.scores], device=device)
    centres = torch.cat([(level[:, :2] + level[:, 2:]) / 2 for level in priors])  # [A, 2]
    flat = (
        torch.cat([level.flatten(2) for level in inputs.scores], 2).transpose(1, 2).contiguous()
    )  # [B, A, C]
    rows = pixels.transpose(1, 2).contiguous()  # [B, A, 4]
    labels = torch.stack([gt.labels for gt in inputs.gts])[..., None]  # [B, G, 1]
    boxes = torch.stack([gt.bboxes for gt in inputs.gts])  # [B, G, 4]

    def run_ours() -> Tensor:
        targets = ours._targets(inputs.scores, pixels, inputs.gts, inputs.metas)
        return targets.scores.anchors[targets.scores.positive]

    def run_theirs() -> Tensor:
        targets = assigner(flat, rows, centres, labels, boxes, torch.ones_like(labels, dtype=torch.bool))
        return targets[3].flatten().nonzero().squeeze(1)

    peer, skipped = (run_theirs, None) if assigner is not None else (None, "not installed")
    pairs = batch * number * flat.shape[1]
    return Pair(run_ours, peer, _alike, bytes=FLOAT * pairs, skipped=skipped)


def _alike(ours: Tensor, theirs: Tensor) -> None:
    """Theirs takes the m best among anchors whose centre is inside, and CIoU for IoU: the same for most."""
    common = torch.isin(ours, theirs).sum()
    assert common > 0.5 * len(ours), f"of {len(ours)} positives {common} are positives of the peer"


def _ultralytics_assigner() -> torch.nn.Module | None:
    # It writes its settings at its first import: not into the user's folder.
    os.environ.setdefault("YOLO_CONFIG_DIR", tempfile.mkdtemp())
    try:
        from ultralytics.utils.tal import TaskAlignedAssigner
    except ImportError:
        return None
    return TaskAlignedAssigner(topk=13, num_classes=CLASSES, alpha=1.0, beta=6.0)


def _t_head(size: tuple[int, int], device: torch.device) -> Pair:
    ours, theirs = heads("aligned", device)
    inputs = features(1, size, CHANNELS, device)

    def run(head: TOODHead | MMDetTOODHead) -> tuple[list[Tensor], list[Tensor]]:
        head.zero_grad()
        leaves = [level.requires_grad_() for level in (level.detach() for level in inputs)]
        maps = [level for kind in head(leaves) for level in kind]
        sum(level.sum() for level in maps).backward()
        return [level.detach() for level in maps], [leaf.grad for leaf in leaves]

    with FlopCounterMode(display=False) as counter:
        run(theirs)
    return Pair(partial(run, ours), partial(run, theirs), _same_maps, flops=counter.get_total_flops())


def _step(size: tuple[int, int], device: torch.device) -> Pair:
    run_ours, run_theirs, flops = steps(*heads("aligned", device), size, device)
    return Pair(run_ours, run_theirs, same_step, flops=flops)


def _same_maps(ours: tuple, theirs: tuple) -> None:
    for mine, other in zip(ours[0], theirs[0], strict=True):
        assert (mine - other).norm() <= 1e-5 * other.norm()
    for mine, other in zip(ours[1], theirs[1], strict=True):
        assert (mine - other).norm() <= 1e-3 * other.norm()
