"""The assignment schemes of Table 2: arithmetic by hand, losses and detections against mmdet's."""

import math
from pathlib import Path

import mmdet
import pytest
import torch
from helpers.mmdet_heads import equals_in_order
from mmdet.models.dense_heads import GFLHead
from mmdet.models.losses.focal_loss import py_sigmoid_focal_loss
from mmdet.models.task_modules.prior_generators import AnchorGenerator
from mmdet.registry import MODELS
from mmdet.structures.bbox import bbox_overlaps
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from torchvision.ops import batched_nms, generalized_box_iou_loss

from tood.engine.config import resolve
from tood.models import PAAHead, TopNAssigner
from tood.models.baselines import noisy_anchor
from tood.models.baselines.mal import depress, depression_mask, depression_ratio
from tood.models.baselines.noisy_anchor import (
    keep_sum,
    sample_weights,
    soft_focal_loss,
    soft_labels,
    top_n_assign,
)
from tood.models.common.positives import means, of_images
from tood.study.plan import Plan

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
MMDET_CONFIGS = Path(mmdet.__file__).parent / ".mim" / "configs"
CLASSES = [{"id": number, "name": str(number)} for number in range(5)]
CHANNELS = 16
# Image sizes (height, width): the second is padded to the first.
SIZE, PADDED = (128, 160), (70, 101)


@pytest.fixture(autouse=True, scope="module")
def mmdet_scope():
    init_default_scope("mmdet")


def objects(*boxes: list[float], labels: list[int] | None = None) -> InstanceData:
    return InstanceData(
        bboxes=torch.tensor(boxes, dtype=torch.float).reshape(-1, 4),
        labels=torch.tensor(labels if labels is not None else range(len(boxes)), dtype=torch.long),
    )


def meta(img_shape=SIZE, pad_shape=SIZE, scale=(1.0, 1.0)) -> dict:
    return dict(img_shape=img_shape, pad_shape=pad_shape, ori_shape=img_shape, scale_factor=scale)


SEVERAL = objects([3, 3, 30, 40], [50, 20, 120, 90], [40, 40, 60, 60], [0, 0, 160, 128])
OVERLAPPING = objects([10, 10, 70, 64], [20, 16, 76, 68], labels=[2, 2])
GTS = [SEVERAL, OVERLAPPING]
METAS = [meta(), meta(PADDED, (72, 104), (0.5, 0.7))]


def features(size=SIZE, batch=2, strides=(8, 16, 32, 64, 128)) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(
        torch.randn(batch, CHANNELS, -(-size[0] // s), -(-size[1] // s), generator=generator) for s in strides
    )


def narrowed_head(model: ConfigDict, normalised: bool) -> torch.nn.Module:
    """The head of a configuration, narrow, with random weights large enough for every part to matter."""
    narrow = dict(num_classes=len(CLASSES), in_channels=CHANNELS, feat_channels=CHANNELS, stacked_convs=2)
    if normalised:
        narrow["norm_cfg"] = dict(type="GN", num_groups=4)
    settings = {key: model.get(key) for key in ("train_cfg", "test_cfg")}
    head = MODELS.build({**model.bbox_head, **narrow, **settings})
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in head.named_parameters():
            if not name.endswith("scale"):
                parameter.copy_(torch.randn_like(parameter) * 0.15)
    return head


def our_model(run: str) -> ConfigDict:
    return resolve(Plan({"scale": "paper"}).settings(run), CLASSES, None).model


def our_head(run: str) -> torch.nn.Module:
    model = our_model(run)
    return narrowed_head(model, "norm_cfg" in model.bbox_head)


def their_head(run: str, **changes) -> torch.nn.Module:
    """mmdet's head of mmdet's own configuration for the run."""
    model = Config.fromfile(MMDET_CONFIGS / SHIPPED[run]).model
    model.bbox_head.update(CHANGES.get(run, {}) | changes)
    return narrowed_head(model, "norm_cfg" in our_model(run).bbox_head)


def total(losses: dict) -> dict[str, torch.Tensor]:
    return {name: sum(value) if isinstance(value, list) else value for name, value in losses.items()}


# NoisyAnchor


IOUS = torch.tensor(
    [
        [0.9, 0.6, 0.5, 0.0, 0.1],
        [0.0, 0.7, 0.4, 0.0, 0.2],
    ]
)


@pytest.mark.parametrize(
    ("ious", "top_n", "expected"),
    [
        (IOUS, 1, [0, 1, -1, -1, -1]),
        # The third anchor is chosen by both, the second by the first object too, which overlaps it less.
        (IOUS, 3, [0, 1, 0, -1, 1]),
        (IOUS[1:], 1, [-1, 0, -1, -1, -1]),
        (IOUS, 5, [0, 1, 0, -1, 1]),  # the fourth touches nothing
        (IOUS, 30, [0, 1, 0, -1, 1]),  # fewer anchors than chosen
        (torch.tensor([[0.2, 0.8], [0.3, 0.9]]), 1, [-1, 1]),  # one anchor for both: the first has none
        (torch.zeros(2, 3), 2, [-1, -1, -1]),
        (torch.zeros(0, 3), 2, [-1, -1, -1]),
        (torch.zeros(2, 0), 2, []),
    ],
)
def test_top_n_assignment(ious, top_n, expected):
    assert top_n_assign(ious, top_n).gt_index.tolist() == expected


def test_ties_are_broken_to_the_number():
    found = top_n_assign(torch.full((1, 6), 0.5), 4)
    assert (found.gt_index == 0).sum() == found.times.sum() == 4


def test_how_many_objects_choose_an_anchor():
    assert top_n_assign(IOUS, 3).times.tolist() == [1, 2, 2, 0, 1]
    assert top_n_assign(torch.zeros(0, 3), 2).times.tolist() == [0, 0, 0]


def test_top_n_assigner():
    anchors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5], [50, 50, 60, 60]])
    truth = objects([0, 0, 10, 10], [50, 50, 60, 62], labels=[3, 1])
    result = TopNAssigner(2).assign(InstanceData(priors=anchors), truth)
    assert result.gt_inds.tolist() == [1, 1, 2]
    assert result.labels.tolist() == [3, 3, 1]
    assert result.num_gts == 2


LOC, CLS = torch.tensor([0.2, 0.4, 0.6]), torch.tensor([0.3, 0.1, 0.2])
ONCE = torch.ones(3)


def test_soft_labels_by_hand():
    # By their means .4 and .2 the parts are (.5, 1, 1.5) and (1.5, .5, 1); with .75 and .25 of them
    # (.75, .875, 1.375), whose range .625 becomes that from .4 to 1.
    expected = [0.4, 0.4 + 0.6 * 0.125 / 0.625, 1.0]
    assert soft_labels(LOC, CLS, 0.75, ONCE).tolist() == pytest.approx(expected)


def test_sample_weights_by_hand():
    # 1 / (1 - x): (1.25, 1.6667, 2.5), mean 1.80556, and (1.42857, 1.11111, 1.25), mean 1.26323.
    loc, cls = [1 / 0.8, 1 / 0.6, 1 / 0.4], [1 / 0.7, 1 / 0.9, 1 / 0.8]
    expected = [0.75 * 3 * a / sum(loc) + 0.25 * 3 * b / sum(cls) for a, b in zip(loc, cls, strict=True)]
    assert expected == pytest.approx([0.80195, 0.91221, 1.28584], abs=1e-4)
    assert sample_weights(LOC, CLS, 0.75, ONCE).tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("loc", "cls", "labels", "weights"),
    [
        ([0.3], [0.8], [0.3], [1.0]),  # a single positive
        ([0.5, 0.5], [0.2, 0.2], [0.5, 0.5], [1.0, 1.0]),  # all equal
        ([0.0, 0.0], [0.2, 0.6], [0.0, 1.0], None),  # mean 0: the scores alone tell them apart
        ([0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [1.0, 1.0]),
        ([1.0, 1.0], [1.0, 1.0], [1.0, 1.0], [1.0, 1.0]),
        ([1.0, 0.5], [0.5, 0.5], [1.0, 0.75], [1.75, 0.25]),  # a perfect box takes all the weight of loc
        ([], [], [], []),
    ],
)
def test_soft_labels_and_weights_at_the_edges(loc, cls, labels, weights):
    loc, cls = torch.tensor(loc), torch.tensor(cls)
    once = torch.ones_like(loc)
    assert soft_labels(loc, cls, 0.75, once).tolist() == pytest.approx(labels, abs=1e-6)
    found = sample_weights(loc, cls, 0.75, once)
    assert found.isfinite().all()
    if weights is not None:
        assert found.tolist() == pytest.approx(weights, abs=1e-5)


def test_soft_labels_span_mean_to_one_and_weights_average_one():
    generator = torch.Generator().manual_seed(0)
    loc, cls = torch.rand(2, 50, generator=generator)
    once = torch.ones(50)
    labels = soft_labels(loc, cls, 0.75, once)
    assert (labels.min().item(), labels.max().item()) == pytest.approx((loc.mean().item(), 1))
    assert sample_weights(loc, cls, 0.75, once).mean().item() == pytest.approx(1)


def test_a_positive_that_two_objects_chose_counts_twice():
    """As in the released code, whose list of positives then holds it twice."""
    generator = torch.Generator().manual_seed(0)
    loc, cls = torch.rand(2, 6, generator=generator)
    times = torch.tensor([1, 2, 1, 1, 3, 1])
    listed = torch.arange(6).repeat_interleave(times)  # [9]
    for function in (soft_labels, sample_weights):
        expected = function(loc[listed], cls[listed], 0.75, torch.ones(9))
        torch.testing.assert_close(function(loc, cls, 0.75, times)[listed], expected)
        assert not torch.allclose(function(loc, cls, 0.75, torch.ones(6)), function(loc, cls, 0.75, times))


def test_the_head_counts_repeated_choices(noisy, monkeypatch):
    """Two like objects choose the same anchors; mmdet's IoU says how often each is chosen."""
    seen = []

    def recorded(loc, cls, alpha, times):
        seen.append(times)
        return soft_labels(loc, cls, alpha, times)

    monkeypatch.setattr(noisy_anchor, "soft_labels", recorded)
    noisy.loss_by_feat(*noisy(features()), [OVERLAPPING, SEVERAL], METAS)
    anchors = torch.cat(noisy._priors(noisy(features())))
    ious = bbox_overlaps(OVERLAPPING.bboxes, anchors)
    chosen = [set(row.topk(30).indices.tolist()) for row in ious]
    both = chosen[0] & chosen[1]
    assert both
    assert (seen[0] == 2).sum() == len(both)
    assert seen[0].sum() == 60


def test_weights_keep_the_sum_of_the_loss():
    loss = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], requires_grad=True)
    weights = torch.tensor([[1.0], [0.0], [3.0]])
    weighted = keep_sum(loss, weights)
    # 1 + 2 + 0 + 15 + 18 = 36 for 21
    torch.testing.assert_close(weighted, torch.tensor([[1.0, 2.0], [0, 0], [15, 18]]) * 21 / 36)
    weighted.sum().backward()
    torch.testing.assert_close(loss.grad, (weights * 21 / 36).expand(3, 2))  # the scale has no gradient


@pytest.mark.parametrize("loss", [torch.zeros(3, 1), torch.zeros(0, 4), torch.tensor(0.0)])
def test_a_sum_of_nothing_is_kept_too(loss):
    """The last is what mmdet's losses give for no elements at all."""
    assert keep_sum(loss, torch.ones(len(loss) if loss.dim() else 0, 1)).sum().item() == 0


def test_soft_focal_loss_of_hard_targets_is_mmdets():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(40, 5, generator=generator, dtype=torch.float64) * 4
    target = (torch.rand(40, 5, generator=generator) < 0.2).double()
    expected = py_sigmoid_focal_loss(logits, target, gamma=2.0, alpha=0.5, reduction="none")
    torch.testing.assert_close(soft_focal_loss(logits, target, 2.0, 0.5), expected, rtol=1e-9, atol=1e-12)


def test_soft_focal_loss_by_hand():
    # p = .8, t = .3, gamma 2: .3 * .25 * .04 * -log .8 + .7 * .75 * .64 * -log .2
    found = soft_focal_loss(torch.tensor(math.log(4.0)), torch.tensor(0.3), 2.0, 0.25)
    assert found.item() == pytest.approx(-0.003 * math.log(0.8) - 0.336 * math.log(0.2))


@pytest.fixture
def noisy():
    return our_head("noisy_anchor")


def test_noisy_anchor_head_learns_on_both_branches_and_keeps_the_sums(noisy):
    cls_scores, bbox_preds = noisy(features())
    found = means(of_images(noisy, (cls_scores, bbox_preds), GTS, METAS))
    losses = noisy.loss_by_feat(cls_scores, bbox_preds, GTS, METAS)
    assert losses.keys() == {"loss_cls", "loss_bbox"}
    sum(losses.values()).backward()
    for name, parameter in noisy.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name

    # Each loss is what it would be without the weights, over the mean number of positives.
    divisor = 0.9 * 100 + 0.1 * found["objects"] * found["positives"]
    assert noisy.mean_positives.item() == pytest.approx(divisor)
    plain = noisy.loss_bbox.loss_weight * unweighted_box_loss(noisy, bbox_preds) / divisor
    assert losses["loss_bbox"].item() == pytest.approx(plain, rel=1e-4)


def unweighted_box_loss(head, bbox_preds) -> float:
    """Smooth L1 of every positive, from mmdet's own targets."""
    anchors, flags = head.get_anchors([x.shape[-2:] for x in bbox_preds], METAS, device="cpu")
    _, _, targets, weights, _ = head.get_targets(anchors, flags, GTS, METAS)
    loss = 0
    for prediction, target, weight in zip(bbox_preds, targets, weights, strict=True):
        difference = (prediction.permute(0, 2, 3, 1).reshape(2, -1, 4) - target).abs() * weight
        loss += torch.where(difference < 0.1, difference**2 / 0.2, difference - 0.05 * weight).sum().item()
    return loss


def test_weights_move_the_gradient_and_not_the_loss(noisy, monkeypatch):
    found = []
    for weigh in (sample_weights, lambda loc, cls, alpha, times: torch.ones_like(loc)):
        monkeypatch.setattr(noisy_anchor, "sample_weights", weigh)
        noisy.zero_grad()
        noisy.mean_positives.fill_(100)
        losses = noisy.loss_by_feat(*noisy(features()), GTS, METAS)
        sum(losses.values()).backward()
        found.append((losses, noisy.retina_cls.weight.grad.clone(), noisy.retina_reg.weight.grad.clone()))
    (weighted, *gradients), (plain, *their_gradients) = found
    for name, value in plain.items():
        torch.testing.assert_close(weighted[name], value, rtol=1e-5, atol=0)
    for a, b in zip(gradients, their_gradients, strict=True):
        assert not torch.allclose(a, b, rtol=1e-2)


def test_running_mean_of_the_positives(noisy):
    outs = noisy(features())
    expected = 100.0
    for gts, positives in [(GTS, 30 * 6), ([objects(), objects()], 0), (GTS, 30 * 6)]:
        if positives:
            found = means(of_images(noisy, outs, gts, METAS))
            positives = found["objects"] * found["positives"]
            assert positives <= 30 * 6
        noisy.loss_by_feat(*outs, gts, METAS)
        expected = 0.9 * expected + 0.1 * positives
        assert noisy.mean_positives.item() == pytest.approx(expected, rel=1e-5)
    assert "mean_positives" in noisy.state_dict()


@pytest.mark.parametrize("run", ["noisy_anchor", "atss_qfl"])
def test_padding_has_no_part_in_the_loss(run):
    """Neither in itself nor through what keeps a sum."""
    head = our_head(run)
    outs = head(features())
    before = head.loss_by_feat(*outs, GTS, METAS)
    if run == "noisy_anchor":
        head.mean_positives.fill_(100)
    spoilt = [[level.clone() for level in maps] for maps in outs]
    for maps in spoilt:
        for level, stride in zip(maps, (8, 16, 32, 64, 128), strict=True):
            level[1, :, -(-72 // stride) :] += 3
            level[1, :, :, -(-104 // stride) :] += 3
    after = head.loss_by_feat(*spoilt, GTS, METAS)
    for name, value in total(before).items():
        torch.testing.assert_close(total(after)[name], value)


# MAL


def test_ratio_rises_and_falls_in_twelve_parts():
    ratios = [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.5, 0.4, 0.3, 0.2, 0.1, 0]
    for part, ratio in enumerate(ratios):
        for within in (0.01, 0.5, 0.99):
            assert depression_ratio((part + within) / 12) == pytest.approx(ratio)
    assert depression_ratio(0) == depression_ratio(1) == depression_ratio(0.0) == 0
    assert depression_ratio(1 / 12) == 0.1


@pytest.mark.parametrize("progress", [-0.001, 1.001, math.nan])
def test_progress_outside_of_the_training(progress):
    with pytest.raises(ValueError, match=r"progress is .*; it must be in \[0, 1\]"):
        depression_ratio(progress)


def one_map(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows)[None, None]


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [
        (0.0, [[1, 1, 1, 1, 1], [1, 1, 1, 1, 1]]),
        (0.1, [[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]]),
        (0.3, [[1, 1, 1, 0, 1], [1, 1, 0, 1, 0]]),
        (0.39, [[1, 1, 1, 0, 1], [1, 1, 0, 1, 0]]),  # rounded down
        (0.5, [[1, 0, 1, 0, 1], [1, 1, 0, 0, 0]]),
    ],
)
def test_the_strongest_locations_are_masked(ratio, expected):
    features = one_map([1.0, 7, 2, 9, 3], [4, 5, 8, 6, 10])
    assert depression_mask(features, ratio)[0, 0].tolist() == expected
    # The map's mean is negative now, so that its smallest values, squared as it were, are the strongest.
    assert depression_mask(-features, ratio)[0, 0].tolist() == expected


def test_channels_count_by_their_means():
    # Means 2 and -1: the strengths are 2 a - b = (-4, 7, 8, 9), although a alone is largest at the second.
    features = torch.tensor([[[[0.0, 4, 2, 2]], [[4.0, 1, -4, -5]]]])
    assert features.mean((2, 3)).tolist() == [[2, -1]]
    assert depression_mask(features, 0.25)[0, 0].tolist() == [[1, 1, 1, 0]]
    assert depression_mask(features, 0.5)[0, 0].tolist() == [[1, 1, 0, 0]]


def test_fewer_are_masked_where_several_tie():
    features = one_map([1.0, 3, 3, 2])
    assert depression_mask(features, 0.25)[0, 0].tolist() == [[1, 1, 1, 1]]
    assert depression_mask(features, 0.5)[0, 0].tolist() == [[1, 0, 0, 1]]
    assert depression_mask(torch.ones(1, 2, 3, 3), 0.5).min() == 1


def test_images_are_masked_each_by_itself():
    strong, weak = one_map([10.0, 20, 30, 40]), one_map([0.4, 0.3, 0.2, 0.1])
    assert depression_mask(torch.cat([strong, weak]), 0.5)[:, 0, 0].tolist() == [[1, 1, 0, 0], [0, 0, 1, 1]]


def test_depressed_features_are_a_quarter():
    features = one_map([1.0, 7, 2, 9]).requires_grad_()
    depressed = depress(features, 0.5)
    assert depressed[0, 0].tolist() == [[1, 1.75, 2, 2.25]]
    depressed.sum().backward()
    assert features.grad[0, 0].tolist() == [[1, 0.25, 1, 0.25]]  # none through the choice


def mal_and_freeanchor():
    mal, freeanchor = our_head("mal"), our_head("freeanchor")
    freeanchor.load_state_dict(mal.state_dict())
    freeanchor.pre_anchor_topk = 40
    return mal, freeanchor


@pytest.mark.parametrize(("progress", "same"), [(0.0, True), (0.5, False), (1.0, True)])
def test_mal_without_depression_is_freeanchor(progress, same):
    mal, freeanchor = mal_and_freeanchor()
    mal.set_progress(0, progress)
    found = mal.loss_by_feat(*mal(features()), GTS, METAS)
    expected = freeanchor.loss_by_feat(*freeanchor(features()), GTS, METAS)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.isclose(found[name], value, rtol=1e-5).item() is same, name


def test_nothing_is_depressed_in_testing():
    mal, freeanchor = mal_and_freeanchor()
    expected = freeanchor.eval()(features())
    mal.eval()
    for progress in (None, 0.5):
        mal.progress = progress
        for maps, others in zip(mal(features()), expected, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(maps, others, strict=True))


# ATSS + QFL


@pytest.fixture
def double(monkeypatch):
    """mmdet makes float32 of anchors and IoUs on the way; in float64 only the arithmetic is compared."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    monkeypatch.setattr(torch, "float", torch.float64)
    monkeypatch.setattr(torch, "float32", torch.float64)
    of_single = AnchorGenerator.grid_priors

    def grid_priors(self, sizes, dtype=torch.float64, device="cpu"):
        return of_single(self, sizes, dtype, device)

    monkeypatch.setattr(AnchorGenerator, "grid_priors", grid_priors)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(
    "gts", [GTS, [SEVERAL, objects()], [objects(), objects()]], ids=["both", "one empty", "empty"]
)
def test_quality_focal_loss_is_that_of_gfl(gts):
    """mmdet's GFLHead with all of a side's distribution at one integer, the same distance for ours."""
    ours = our_head("atss_qfl").double()
    config = Config.fromfile(MMDET_CONFIGS / "gfl/gfl_r50_fpn_1x_coco.py").model
    theirs = narrowed_head(config, normalised=True).double()
    assert isinstance(theirs, GFLHead)
    assert theirs.reg_max == 16
    gts = [InstanceData(bboxes=gt.bboxes.double(), labels=gt.labels) for gt in gts]

    generator = torch.Generator().manual_seed(0)
    grids = [(16, 20), (8, 10), (4, 5), (2, 3), (1, 2)]
    logits = [
        torch.randn(2, 5, *grid, generator=generator, dtype=torch.float64).requires_grad_() for grid in grids
    ]
    distances = [torch.randint(0, 9, (2, 4, *grid), generator=generator) for grid in grids]
    peaked = [
        torch.nn.functional.one_hot(d, 17).movedim(-1, 2).flatten(1, 2).double() * 100 for d in distances
    ]  # [B, 4 * 17, H, W]
    found = ours.loss_by_feat(logits, [d.double() for d in distances], gts, METAS)
    gradients = torch.autograd.grad(found["loss_cls"], logits)
    expected = total(theirs.loss_by_feat(logits, peaked, gts, METAS))
    their_gradients = torch.autograd.grad(expected["loss_cls"], logits)
    for name, value in found.items():
        # A division by a sum that mmdet guards with float32's epsilon
        torch.testing.assert_close(value, expected[name], rtol=1e-6, atol=1e-12, msg=name)
    assert (found["loss_bbox"] > 0) == any(len(gt) for gt in gts)
    for ours, theirs in zip(gradients, their_gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-12)


def test_qfl_boxes_have_a_gradient_and_no_centerness():
    head = our_head("atss_qfl")
    outs = head(features())
    assert len(outs) == 2
    losses = head.loss_by_feat(*outs, GTS, METAS)
    assert losses.keys() == {"loss_cls", "loss_bbox"}
    losses["loss_bbox"].backward()
    assert head.atss_reg.weight.grad.abs().sum() > 0
    assert head.atss_cls.weight.grad is None  # its score weighs the boxes without learning from them


# mmdet's schemes, from mmdet's own configurations


SHIPPED = {
    "retinanet": "retinanet/retinanet_r50_fpn_1x_coco.py",
    "pisa": "pisa/retinanet-r50_fpn_pisa_1x_coco.py",
    "freeanchor": "free_anchor/freeanchor_r50_fpn_1x_coco.py",
    "fcos": "fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py",
    "paa_iou": "paa/paa_r50_fpn_1.5x_coco.py",
    "paa": "paa/paa_r50_fpn_1.5x_coco.py",
    "atss_ab": "atss/atss_r50_fpn_1x_coco.py",
    "fovea": "foveabox/fovea_r50_fpn_4xb4-1x_coco.py",
}
# What the recipe of a run has otherwise than mmdet's file
CHANGES = {"fcos": {"centerness_on_reg": True}, "fovea": {"conv_bias": True}}


@pytest.mark.parametrize("run", ["retinanet", "pisa", "freeanchor", "fcos", "paa_iou", "paa"])
@pytest.mark.parametrize("gts", [GTS, [objects(), OVERLAPPING]], ids=["several", "one empty"])
def test_losses_are_mmdets(run, gts, monkeypatch):
    equals_in_order(monkeypatch)  # PISA ranks positives
    ours, theirs = our_head(run), their_head(run)
    state = theirs.state_dict()
    if run == "paa":
        state = {key: value for key, value in state.items() if "centerness" not in key}
    ours.load_state_dict(state, strict=True)
    outs = ours(features()), theirs(features())
    found = total(ours.loss_by_feat(*outs[0], gts, METAS))
    expected = total(theirs.loss_by_feat(*outs[1], gts, METAS))
    if run == "paa":
        del expected["loss_iou"], expected["loss_bbox"], found["loss_bbox"]  # the latter differs, see below
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=0, msg=name)
        assert value > 0
    sum(found.values()).backward()
    sum(expected.values()).backward()
    of_theirs = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, of_theirs[name].grad, rtol=1e-4, atol=1e-6, msg=name)


def assert_same_detections(found, expected):
    for a, b in zip(found, expected, strict=True):
        assert len(a.scores) == len(b.scores) > 20
        torch.testing.assert_close(a.scores, b.scores, rtol=1e-5, atol=0)
        torch.testing.assert_close(a.bboxes, b.bboxes, rtol=1e-5, atol=1e-4)
        assert torch.equal(a.labels, b.labels)


@pytest.mark.parametrize("run", ["retinanet", "pisa", "freeanchor", "fcos", "paa_iou"])
def test_detections_are_mmdets(run, torchvision_operators):
    """With mmdet's rule of what goes into NMS, where it differs from that of the paper's code."""
    ours = our_head(run).eval()
    theirs = their_head(run, **({"score_voting": False} if run == "paa_iou" else {})).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    # mmdet's PAA chooses by location, as the paper's code does, and keeps boxes that clipping leaves no area.
    changes = dict(nms_pre=100) | (dict(min_bbox_size=-1) if run == "paa_iou" else dict(nms_pre_by="pair"))
    with torch.no_grad():
        outs = theirs(features())
        cfg = ConfigDict({**ours.test_cfg, **changes})
        found = ours.predict_by_feat(*outs, batch_img_metas=METAS, cfg=cfg, rescale=True)
        cfg = ConfigDict({**theirs.test_cfg, "nms_pre": 100, "nms": ours.test_cfg.nms})
        expected = theirs.predict_by_feat(*outs, batch_img_metas=METAS, cfg=cfg, rescale=True)
    assert_same_detections(found, expected)


def test_without_iou_prediction_paa_ranks_by_the_score_alone(torchvision_operators):
    """As mmdet's heads do that predict no factor."""
    ours, theirs = our_head("paa").eval(), their_head("atss_ab").eval()
    with torch.no_grad():
        outs = ours(features())
        assert len(outs) == 2
        cfg = ConfigDict({**ours.test_cfg, "nms_pre": 100, "nms_pre_by": "pair"})
        found = ours.predict_by_feat(*outs, batch_img_metas=METAS, cfg=cfg)
        cfg = ConfigDict({**theirs.test_cfg, "nms_pre": 100})
        expected = theirs.predict_by_feat(*outs, None, batch_img_metas=METAS, cfg=cfg)
    assert_same_detections(found, expected)


def test_paa_takes_score_voting_from_the_test_configuration():
    with pytest.raises(ValueError, match=r"set model\.test_cfg\.score_voting instead"):
        PAAHead(num_classes=5, in_channels=16, score_voting=True)


def test_detections_with_score_voting_are_mmdets(torchvision_operators):
    ours, theirs = our_head("paa_iou").eval(), their_head("paa_iou").eval()
    assert theirs.with_score_voting
    ours.load_state_dict(theirs.state_dict(), strict=True)
    with torch.no_grad():
        outs = theirs(features())
        changes = dict(nms_pre=100, max_per_img=30)
        cfg = ConfigDict({**theirs.test_cfg, **changes})
        expected = theirs.predict_by_feat(*outs, batch_img_metas=METAS, cfg=cfg, rescale=True)
        expected = [found[found.scores.argsort(descending=True)] for found in expected]  # it sorts by class
        cfg = ConfigDict({**ours.test_cfg, **changes, "min_bbox_size": -1})
        found = [
            ours.predict_by_feat(*outs, batch_img_metas=METAS, cfg={**cfg, "score_voting": on}, rescale=True)
            for on in (True, False)
        ]
    for voted, plain, theirs in zip(*found, expected, strict=True):
        assert torch.equal(voted.scores, plain.scores)
        area = (plain.bboxes[:, 2:] > plain.bboxes[:, :2]).all(1)
        # A box without area overlaps nothing: mmdet divides by zero, here it stays.
        assert theirs.bboxes[~area].isnan().all()
        assert torch.equal(voted.bboxes[~area], plain.bboxes[~area])
        assert_same_detections([voted[area]], [theirs[area]])
        assert not torch.isclose(voted.bboxes[area], plain.bboxes[area], rtol=1e-3).all()


def test_paa_is_tested_as_in_the_authors_code():
    """Their rules, restated in loops: what enters NMS, and who votes."""
    ours = our_head("paa_iou").eval()
    limit, kept_at_most = 40, 15
    cfg = ConfigDict(
        {**ours.test_cfg, "score_thr_on": "score", "nms_pre_by": "confident_pair", "score_voting": True}
        | {"nms_pre": limit, "max_per_img": kept_at_most, "score_thr": 0.5}
    )
    with torch.no_grad():
        outs = ours(features())
        found = ours.predict_by_feat(*outs, batch_img_metas=METAS, cfg=cfg)
    priors = ours._priors(outs)
    for b, meta_ in enumerate(METAS):
        boxes, scores, labels = [], [], []
        cut = 0
        for anchors, (logits, deltas, iou_logits) in zip(priors, zip(*outs, strict=True), strict=True):
            decoded = ours.bbox_coder.decode(anchors, deltas[b].flatten(1).T, max_shape=meta_["img_shape"])
            pairs = []
            for place, (row, iou) in enumerate(
                zip(logits[b].flatten(1).T.sigmoid(), iou_logits[b].flatten().sigmoid(), strict=True)
            ):
                for label, score in enumerate(row):
                    if score > 0.5:  # the score of the class alone
                        pairs.append(((score * iou).sqrt().item(), place, label))
            cut += len(pairs) > limit
            for score, place, label in sorted(pairs, reverse=True)[:limit]:
                width, height = (decoded[place, 2:] - decoded[place, :2]).tolist()
                if width > 0 and height > 0:
                    boxes.append(decoded[place])
                    scores.append(score)
                    labels.append(label)
        assert cut
        boxes, scores, labels = torch.stack(boxes), torch.tensor(scores), torch.tensor(labels)
        order = batched_nms(boxes, scores, labels, 0.6)[:kept_at_most]
        assert len(order) == kept_at_most
        assert torch.equal(found[b].labels, labels[order])
        torch.testing.assert_close(found[b].scores, scores[order])
        for voted, number in zip(found[b].bboxes, order, strict=True):
            sides, total = torch.zeros(4), 0.0
            for box, score, label in zip(boxes, scores, labels, strict=True):
                iou = bbox_overlaps(boxes[number][None], box[None]).item()
                if label == labels[number] and iou > 0.01:
                    weight = score.item() * math.exp(-((1 - iou) ** 2) / 0.025)
                    sides, total = sides + weight * box, total + weight
            torch.testing.assert_close(voted, sides / total, rtol=1e-4, atol=1e-3)


def test_without_iou_prediction_paa_counts_boxes_alike():
    """The authors' arithmetic: the sum of GIoU losses over the number of positives, no weights."""
    ours, theirs = our_head("paa"), their_head("paa")
    state = {key: value for key, value in theirs.state_dict().items() if "centerness" not in key}
    ours.load_state_dict(state, strict=True)
    boxes = []

    def record(module, arguments, options):
        if options.get("reduction_override") != "none":  # which is how candidates are scored
            boxes.append(arguments[:2])

    theirs.loss_bbox.register_forward_pre_hook(record, with_kwargs=True)
    weighted = theirs.loss_by_feat(*theirs(features()), GTS, METAS)["loss_bbox"]
    ((predicted, target),) = boxes
    expected = 1.3 * generalized_box_iou_loss(predicted, target, reduction="sum") / len(predicted)
    found = ours.loss_by_feat(*ours(features()), GTS, METAS)["loss_bbox"]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
    assert not torch.isclose(found, weighted, rtol=1e-2)
