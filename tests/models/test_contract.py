"""What every head has to do, whatever its method: one contract, and each head passes it.

A new head is here as soon as a run has its configuration. What is particular to a method is in its own file.
"""

import copy
import functools
import math
from collections.abc import Iterable

import pytest
import torch
from helpers.gradients import assert_same
from helpers.hard_images import CASES, CROWD, METAS, NOTHING, ONE, SEVERAL, images
from helpers.replicas import gradient_here, launch
from helpers.runs import one_of_each_head
from helpers.short_trainings import bits, configured, initialised, trained
from mmengine.registry import init_default_scope
from torch import Tensor, nn

from tood.engine.checkpoint import Checkpoints
from tood.models.common.positives import means, of_images, statistics
from tood.runtime.failures import Interrupted

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
# FCOS has two losses of boxes.
HEADS = [*one_of_each_head(), "fcos_imprv_r101"]
# Heads that assign, or make features, in another way early in a training
STAGED = [name for name in HEADS if name.startswith(("tood", "tal", "mal", "sapd"))]
EARLY, LATE = 0.0, 0.75  # shares of a training of 12 epochs


@pytest.fixture(autouse=True, scope="module")
def mmdet_scope():
    init_default_scope("mmdet")


@functools.cache
def _built(name: str) -> nn.Module:
    return initialised(configured(name)).train()


def told(model: nn.Module, progress: float) -> nn.Module:
    """In that share of a training."""
    model.zero_grad()
    model.bbox_head.set_progress(int(progress * 12), progress)
    return model


def detector(name: str, progress: float = LATE) -> nn.Module:
    """A head's detector of the scale `smoke` with initial weights."""
    return told(copy.deepcopy(_built(name)), progress)


def stages(name: str) -> tuple[float, ...]:
    return (EARLY, LATE) if name in STAGED else (LATE,)


def of_anchors(head: nn.Module, maps: Iterable[Tensor]) -> Tensor:
    """[B, A, channels] of one kind of prediction, in the order of the anchors of all levels."""
    levels = []
    for level, number in zip(maps, head.prior_generator.num_base_priors, strict=True):
        B, channels, H, W = level.shape
        levels.append(level.permute(0, 2, 3, 1).reshape(B, H * W * number, channels // number))
    return torch.cat(levels, 1)


def gradients_of_maps(loss: Tensor, head: nn.Module, maps: list[Tensor]) -> Tensor:
    return of_anchors(head, torch.autograd.grad(loss, maps, retain_graph=True, materialize_grads=True))


def box_loss(model: nn.Module, losses: dict) -> Tensor:
    """That of the boxes alone: where scores are computed of boxes, these learn by others too."""
    names = ["loss_bbox"] if "loss_bbox" in losses else [name for name in losses if name != "loss_cls"]
    return model.parse_losses({name: losses[name] for name in names})[0]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", HEADS)
def test_nothing_in_an_image_stops_a_head(name, case):
    """Losses, gradients and statistics are finite; no box learns but those of the positives."""
    if case == "without area" and name in ("retinanet", "pisa", "freeanchor", "mal"):
        pytest.skip("the logarithm of a side is infinite; the check of the data leaves such objects out")
    gts, crowds = CASES[case]
    for progress in stages(name):
        model = told(_built(name), progress)
        head = model.bbox_head
        outs = images(model)
        losses = head.loss_by_feat(*outs, gts, METAS, crowds)
        loss, parts = model.parse_losses(losses)
        assert loss > 0
        assert all(math.isfinite(part) for part in parts.values()), parts
        learning = gradients_of_maps(box_loss(model, losses), head, outs[1]).any(2)  # [B, A]
        loss.backward()
        for parameter_name, parameter in model.named_parameters():
            assert parameter.grad is None or parameter.grad.isfinite().all(), parameter_name

        found = head.positives_by_feat(*outs, batch_gt_instances=gts, batch_img_metas=METAS)
        dense = head.dense_by_feat(*outs, batch_img_metas=METAS, clip=False)
        for positives, levels, gt, learns in zip(found, dense, gts, learning, strict=True):
            anchors = sum(len(level.boxes) for level in levels)
            assert anchors == len(learns)
            assert ((positives.anchors >= 0) & (positives.anchors < anchors)).all()
            assert ((positives.objects >= 0) & (positives.objects < len(gt))).all()
            assert ((positives.weights > 0) & (positives.weights <= 1)).all()
            assert set(learns.nonzero().flatten().tolist()) <= set(positives.anchors.tolist())
            measured = statistics(positives, levels, gt.bboxes)
            assert measured.number.shape == measured.iou.shape == (len(gt),)
            assert measured.number.isfinite().all()
            assert torch.equal(measured.iou.isnan(), measured.number == 0)
            assert len(positives.anchors) > 0 or gt is not ONE
        averages = means(of_images(head, outs, gts, METAS))
        assert averages["objects"] == sum(map(len, gts))
        assert all(value is None or math.isfinite(value) for value in averages.values())


@pytest.mark.parametrize("name", HEADS)
def test_positives_are_those_of_the_loss(name):
    """Each learns its object's box, and for each object some learn its class."""
    gts = [SEVERAL, ONE]
    for progress in stages(name):
        model = told(_built(name), progress)
        head = model.bbox_head
        outs = images(model)
        losses = head.loss_by_feat(*outs, gts, METAS)
        boxes = gradients_of_maps(box_loss(model, losses), head, outs[1])
        scores = gradients_of_maps(model.parse_losses(losses)[0], head, outs[0])
        found = head.positives_by_feat(*outs, batch_gt_instances=gts, batch_img_metas=METAS)
        extents = of_anchors(head, outs[1])
        for positives, gt, of_scores, of_boxes, extent in zip(
            found, gts, scores, boxes, extents, strict=True
        ):
            # FCOS's distances end in a relu, whose zeros have no gradient.
            able = positives.anchors[extent[positives.anchors].any(1)]
            learning = of_boxes.any(1).nonzero().flatten().tolist()
            assert learning == sorted(set(able.tolist()))
            assert len(learning) > 0
            labels = gt.labels[positives.objects]
            rises = of_scores[positives.anchors, labels] < 0
            assert set(positives.objects[rises].tolist()) == set(positives.objects.tolist())


@pytest.mark.parametrize("name", HEADS)
def test_without_objects_scores_are_trained_and_boxes_are_not(name):
    model = told(_built(name), LATE)
    outs = images(model)
    losses = model.bbox_head.loss_by_feat(*outs, [NOTHING, NOTHING], METAS)
    assert gradients_of_maps(model.parse_losses(losses)[0], model.bbox_head, outs[0]).any()
    assert not gradients_of_maps(box_loss(model, losses), model.bbox_head, outs[1]).any()


@pytest.mark.parametrize("name", HEADS)
def test_crowds_are_nothing_to_a_head(name):
    """So that the positives, which do not know of them, are those of the loss."""
    found = []
    for crowds in ([CROWD, CROWD], None):
        model = detector(name)
        losses = model.bbox_head.loss_by_feat(*images(model), [SEVERAL, ONE], METAS, crowds)
        found.append(model.parse_losses(losses)[0].item())
    assert found[0] == found[1]


@pytest.mark.parametrize("name", [*STAGED, *(name for name in HEADS if name.startswith("iqdet"))])
def test_training_needs_to_know_how_far_it_is_and_testing_does_not(name):
    model = initialised(configured(name)).train()
    with pytest.raises(RuntimeError, match=r"call set_(progress|epoch)"):
        model.bbox_head.loss_by_feat(*images(model), [SEVERAL, ONE], METAS)
    model.eval().bbox_head.test_cfg.update(score_thr=0.0)
    with torch.no_grad():
        found = model.bbox_head.predict_by_feat(*images(model), batch_img_metas=METAS)
    assert all(len(image) > 0 for image in found)


# The gradient of a batch, and a training that was stopped


# RUN:EPOCH:IMAGES for two processes of mmdet, which have two images each; of three images, the last has one.
CASES_OF_TWO = [
    *(f"{run}:4:4" for run in one_of_each_head()),
    *(f"{run}:0:4" for run in STAGED if not run.startswith("mal")),
    *(f"{run}:4:3" for run in ("tood_ab", "fovea", "gfl_r101", "paa_r101")),
]
# Each head once, half of them early in a training, on four replicas, the last of one image
CASES_OF_FOUR = [f"{run}:{4 * (number % 2)}:7" for number, run in enumerate(one_of_each_head())]


@pytest.fixture(scope="module")
def theirs(tmp_path_factory) -> dict[str, dict]:
    """By mmdet's training on two processes, each with a replica."""
    return launch("theirs", 2, CASES_OF_TWO, tmp_path_factory.mktemp("theirs"))


@pytest.mark.parametrize("case", CASES_OF_TWO)
def test_replicas_are_the_processes_of_mmdet(case, theirs):
    """All images at once, and one at a time, which takes a replica apart."""
    for micro_batch in (None, 1):
        assert_same(gradient_here(case, micro_batch), theirs[case])


@pytest.mark.slow
def test_replicas_are_four_processes_of_mmdet(tmp_path_factory):
    """In one process, and on two or four, in turn: how many there are is nothing to a head."""
    expected = launch("theirs", 4, CASES_OF_FOUR, tmp_path_factory.mktemp("theirs"))
    found = {}
    for number, first in ((2, 0), (4, 1)):
        found |= launch("ours", number, CASES_OF_FOUR[first::2], tmp_path_factory.mktemp("ours"))
    for case in CASES_OF_FOUR:
        for gradient in (gradient_here(case, 2), found[case]):
            assert_same(gradient, expected[case])


# Quick: a head that keeps something besides parameters, and the paper's.
RESUMED = [
    pytest.param(run, marks=[] if run in ("noisy_anchor", "tood_af") else pytest.mark.slow)
    for run in one_of_each_head()
]


@pytest.mark.parametrize("run", RESUMED)
def test_a_training_goes_on_from_a_checkpoint(training_images, tmp_path, run):
    """In its second epoch, with the same bits as without a stop."""
    options = {"model.train_cfg.initial_epoch": 1} if run.startswith("tood") else {}
    config = configured(run, options)
    expected, *_ = trained(training_images, tmp_path / "whole", config, iterations=8)

    def checkpoints():
        return Checkpoints(tmp_path / "checkpoints", "identity", minutes=10, iterations=1)

    asked = iter(range(100))
    with pytest.raises(Interrupted):
        trained(
            training_images,
            tmp_path / "parts",
            config,
            iterations=8,
            checkpoints=checkpoints(),
            stop=lambda: next(asked) == 6,
        )
    found, _, entries = trained(
        training_images, tmp_path / "parts", config, iterations=8, checkpoints=checkpoints()
    )
    assert bits(found) == bits(expected)
    assert [entry["iteration"] for entry in entries] == [5, 8]
