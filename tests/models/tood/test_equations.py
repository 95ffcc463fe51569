"""The pure tensor functions, equation by equation, and each deliberate difference from mmdet."""

import mmcv.ops
import pytest
import torch
from helpers.task_alignment import (
    assign_one,
    dense,
    restated_assign,
    restated_t_hat,
    t_hat_of,
    target_map,
)
from mmdet.models.losses import QualityFocalLoss
from mmdet.models.losses.focal_loss import py_focal_loss_with_prob
from mmdet.models.utils import sigmoid_geometric_mean
from mmdet.structures.bbox import bbox_overlaps
from torch.nn.functional import grid_sample

from tood.models.common.box_coders import PointBBoxCoder
from tood.models.common.dense_level import DenseLevel
from tood.models.common.dense_prediction import select_candidates
from tood.models.common.layers import ModulatedDeformConv2d
from tood.models.common.losses import FocalLoss
from tood.models.common.pairs import PAIRS_AT_ONCE, box_rows_iou, owners
from tood.models.tood import task_alignment
from tood.models.tood.losses import (
    SCORES_AT_ONCE,
    ScoreTargets,
    focal_loss_with_prob,
    sum_of_focal_loss_with_prob,
    sum_of_task_aligned_focal_loss,
    task_aligned_focal_loss,
)
from tood.models.tood.spatial_alignment import align_boxes, align_scores, keep_valid
from tood.models.tood.t_head import HeadMaps, THead
from tood.models.tood.task_alignment import (
    Objects,
    normalise_alignment,
    task_aligned_match,
)
from tood.models.tood.task_decomposition import TaskDecomposition
from tood.models.tood.tood_head import centerness_target


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# Equations 2 to 4


def test_task_decomposition_scales_each_layer_before_the_reduction():
    """Eq. 2 as written, features times attention, against the product with the weights."""
    C, N = 16, 3
    module = TaskDecomposition(C, N, dict(type="GN", num_groups=4)).double()
    inter = rand(2, N * C, 5, 7)
    w = module.attention(inter.mean((2, 3), keepdim=True))  # [B, N, 1, 1]
    task = (w[:, :, None] * inter.view(2, N, C, 5, 7)).flatten(1, 2)  # [B, N*C, H, W]
    torch.testing.assert_close(module(inter), module.reduction(task), rtol=1e-10, atol=1e-12)


def test_task_decomposition_without_norm_keeps_its_bias():
    module = TaskDecomposition(16, 2, None).double()
    torch.nn.init.constant_(module.reduction.conv.bias, 3.0)
    inter = torch.zeros(1, 32, 2, 2, dtype=torch.float64)
    assert torch.equal(module(inter), torch.full((1, 16, 2, 2), 3.0, dtype=torch.float64))


@pytest.mark.parametrize("aligns_boxes", [True, False])
@pytest.mark.parametrize("norm", [dict(type="GN", num_groups=4), None], ids=["GN", "bias"])
def test_t_head_is_its_parts_on_the_layers_side_by_side(norm, aligns_boxes):
    """Its sum of products against each part on X^inter, predictions and gradients."""
    torch.manual_seed(0)
    head = THead(3, 8, 16, 4, None, norm, aligns_boxes=aligns_boxes).double()
    x = rand(2, 8, 5, 7).requires_grad_()
    layers = [x]
    for conv in head.tower:
        layers.append(conv(layers[-1]))
    inter = torch.cat(layers[1:], 1)  # [B, N*C, H, W]
    parts = HeadMaps(
        head.cls_conv(head.cls_decomposition(inter)),
        head.reg_conv(head.reg_decomposition(inter)),
        *head.alignment(inter),
    )
    found = head(x)
    assert (found.offsets is None) == (parts.offsets is None) == (not aligns_boxes)
    gradients = []
    for maps in (found, parts):
        total = sum((m * rand(*m.shape, seed=1)).sum() for m in maps if m is not None)
        gradients.append(torch.autograd.grad(total, [x, *head.parameters()]))
    for ours, theirs in zip(
        (*filter(torch.is_tensor, found), *gradients[0]),
        (*filter(torch.is_tensor, parts), *gradients[1]),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_paper_sized_t_head_has_the_parameters_table_1_implies():
    """4.82 M in the head: with five level scales 4,823,790, the only count that fits all printed figures."""
    head = THead(80, 256, 256, 6, None, dict(type="GN", num_groups=32))
    assert sum(p.numel() for p in head.parameters()) + 5 == 4_823_790


# Equations 5 and 6


def test_aligned_scores_are_the_geometric_mean():
    cls, prob = rand(2, 5, 4, 4), rand(2, 1, 4, 4, seed=1)
    expected = (cls.sigmoid() * prob.sigmoid()).sqrt()
    torch.testing.assert_close(align_scores(cls, prob), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("logit", [-120.0, -60.0, 0.0, 40.0])
def test_gradient_of_aligned_scores_is_analytic_where_autograd_of_the_square_root_fails(logit):
    gradients = []
    for function in (align_scores, sigmoid_geometric_mean, lambda p, m: (p.sigmoid() * m.sigmoid()).sqrt()):
        p, m = torch.full((2, 1), logit, requires_grad=True), torch.full((2, 1), logit, requires_grad=True)
        function(p, m).sum().backward()
        gradients.append(p.grad)
    ours, mmdet, plain = gradients
    torch.testing.assert_close(ours, mmdet, rtol=1e-5, atol=1e-12)
    assert ours.isfinite().all()
    if logit == -120.0:
        assert plain.isnan().all()


@pytest.mark.parametrize("size", [(6, 9), (1, 5), (1, 1)], ids=str)
def test_aligned_boxes_equal_deformable_convolution(size, torchvision_operators):
    """The released code's way to write Eq. 6, values and both gradients, samples outside included."""
    results = []
    for function in (
        align_boxes,
        lambda b, o: mmcv.ops.deform_conv2d(b, o, b.new_ones(4, 1, 1, 1), 1, 0, 1, 4, 4),
    ):
        boxes, offsets = rand(2, 4, *size).requires_grad_(), (rand(2, 8, *size, seed=1) * 2).requires_grad_()
        out = function(boxes, offsets)
        (out * rand(*out.shape, seed=2)).sum().backward()
        results.append((out, boxes.grad, offsets.grad))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_aligned_boxes_move_each_boundary_by_its_own_offset():
    """Eq. 6 by hand: channel 1 reads one row down and half a column right, the others stay."""
    boxes = torch.arange(12.0).view(1, 1, 3, 4).repeat(1, 4, 1, 1)
    offsets = torch.zeros(1, 8, 3, 4)
    offsets[:, 2], offsets[:, 3] = 1.0, 0.5
    aligned = align_boxes(boxes, offsets)
    torch.testing.assert_close(aligned[:, [0, 2, 3]], boxes[:, [0, 2, 3]])
    assert aligned[0, 1, 0, 0] == pytest.approx((4 + 5) / 2)
    assert aligned[0, 1, 2, 0] == 0  # below the map reads zero


def test_keep_valid_restores_only_inverted_boxes():
    boxes = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 2]]).T.reshape(1, 4, 1, 2)
    aligned = torch.tensor([[3.0, 0, 2, 2], [1, 1, 2, 2]]).T.reshape(1, 4, 1, 2)
    kept = keep_valid(aligned, boxes)
    assert torch.equal(kept[..., 0], boxes[..., 0])
    assert torch.equal(kept[..., 1], aligned[..., 1])


# Equation 9 and t-hat


def grid_case():
    """Nine anchors on a 3 x 3 grid of stride 10; boxes of 20 px around each; two overlapping objects."""
    centres = torch.cartesian_prod(torch.arange(3.0), torch.arange(3.0)).flip(1) * 10 + 10
    boxes = torch.cat([centres - 10, centres + 10], 1)
    gt_boxes = torch.tensor([[0.0, 0, 20, 20], [2.0, 0, 40, 40]])
    scores = torch.full((9, 2), 0.5)
    return scores, boxes, centres, gt_boxes, torch.tensor([0, 1])


def assign(**options):
    settings = dict(alpha=1.0, beta=6.0, topk=13) | options
    return assign_one(*grid_case(), **settings)


def test_anchor_wanted_by_two_objects_goes_to_the_larger_iou_or_by_option_to_the_smaller_area():
    scores, boxes, centres, gt_boxes, labels = grid_case()
    boxes[0] = gt_boxes[1]  # anchor 0 sits in both and predicts the large object exactly
    options = dict(alpha=1.0, beta=6.0, topk=13)
    arguments = (scores, boxes, centres, gt_boxes, labels)
    assert assign_one(*arguments, **options).gt_index[0] == 1
    assert assign_one(*arguments, **options, conflict="area").gt_index[0] == 0
    with pytest.raises(ValueError, match="conflict is 'size'"):
        assign_one(*arguments, **options, conflict="size")


def test_centre_outside_its_object_is_negative_unless_asked():
    inside, anywhere = assign(), assign(centre_in_box=False)
    _, _, centres, gt_boxes, _ = grid_case()

    def centres_inside(assignment):
        positive = assignment.gt_index >= 0
        gt = gt_boxes[assignment.gt_index[positive]]
        return ((centres[positive] > gt[:, :2]) & (centres[positive] < gt[:, 2:])).all()

    assert centres_inside(inside)
    assert not centres_inside(anywhere)


def test_at_most_m_positives_an_object_taken_before_the_centre_condition():
    assert (assign(topk=1).gt_index >= 0).sum() == 2
    scores, boxes, centres, gt_boxes, labels = grid_case()
    boxes[8], scores[8] = (
        gt_boxes[0],
        0.9,
    )  # best for object 0, but its centre lies outside: the slot is wasted
    found = assign_one(scores, boxes, centres, gt_boxes[:1], labels[:1], alpha=1.0, beta=6.0, topk=1)
    assert (found.gt_index == -1).all()


def test_t_hat_peaks_at_the_largest_iou_of_each_object():
    assignment = assign()
    t_hat = t_hat_of(*grid_case(), alpha=1.0, beta=6.0, topk=13)
    for gt in (0, 1):
        mine = assignment.gt_index == gt
        assert t_hat[mine].max() == pytest.approx(
            assignment.iou[mine].max().item(), rel=1e-3
        )  # 1e-7 guards t
        order = assignment.metric[mine].argsort()
        assert (t_hat[mine][order].diff() >= 0).all()
    assert (t_hat[assignment.gt_index < 0] == 0).all()


def test_no_objects_no_positives():
    scores, boxes, centres, _, _ = grid_case()
    none = torch.zeros(0, dtype=torch.long)
    arguments = (scores, boxes, centres, torch.zeros(0, 4), none)
    assert (assign_one(*arguments, alpha=1, beta=6, topk=13).gt_index == -1).all()
    assert (t_hat_of(*arguments, alpha=1, beta=6, topk=13) == 0).all()


def crowd(dtype=torch.float32, steps=None, anchors=(8, 9), counts=(0, 5, 1, 30)):
    """A batch with B images: scores in two levels, boxes, centres, anchors that take part, objects.

    With `steps`, scores and corners are multiples of 1 / steps of their range: t and u are often equal.
    """
    generator = torch.Generator().manual_seed(0)
    B, A, C, side = len(counts), anchors[0] * anchors[1], 3, 100.0

    def uniform(*shape):
        values = torch.rand(*shape, generator=generator, dtype=dtype)
        return values if steps is None else (values * steps).round() / steps

    def corners(*shape):
        centre, half = uniform(*shape, 2) * side, (uniform(*shape, 2) + 0.1) * side / 4
        return torch.cat([centre - half, centre + half], -1)

    scores, boxes, centres = uniform(B, C, A), corners(B, A).transpose(1, 2), uniform(A, 2) * side
    inside = torch.ones(B, A, dtype=torch.bool)
    inside[1, A // 2 :] = False
    images = torch.arange(B).repeat_interleave(torch.tensor(counts))
    labels = torch.randint(C, (len(images),), generator=generator)
    objects = Objects(corners(len(images)), labels, images)
    return [scores[..., : A // 3], scores[..., A // 3 :]], boxes, centres, inside, objects


@pytest.mark.parametrize("pairs", [1, 200, 2**18])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("steps", [None, 4], ids=["", "ties"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        dict(conflict="area"),
        dict(centre_in_box=False),
        dict(alpha=0.5, beta=2.0),
        dict(beta=0.0),
        dict(topk=100),
    ],
    ids=str,
)
@pytest.mark.parametrize("device", ["cpu", "another"])
def test_a_batch_is_assigned_as_its_images_are_in_full(device, options, steps, dtype, pairs, monkeypatch):
    """Whichever objects are computed together, and as on another device, where all pairs are."""
    if device == "another":
        monkeypatch.setattr(task_alignment, "_sparse_metric", task_alignment._dense_metric)
    monkeypatch.setitem(PAIRS_AT_ONCE, "cpu", pairs)
    options = dict(alpha=1.0, beta=6.0, topk=13) | options
    scores, boxes, centres, inside, objects = crowd(dtype, steps)
    if steps:
        inside[:] = True  # which of equal t comes first depends on how many anchors there are
    B, A = inside.shape
    matches = task_aligned_match(scores, boxes, centres, inside, objects, **options)
    owner = owners(matches.anchors, matches.positive, B * A).view(B, A)
    found = [dense(matches, v, B * A).view(B, A) for v in (matches.metric, matches.iou)]
    t_hat = dense(matches, normalise_alignment(matches), B * A).view(B, A)
    assert matches.positive.any()
    for b in range(B):
        kept, mine = inside[b], (objects.images == b).nonzero().squeeze(1)
        expected = restated_assign(
            torch.cat(scores, 2)[b].T[kept],
            boxes[b].T[kept],
            centres[kept],
            objects.boxes[mine],
            objects.labels[mine],
            **options,
        )
        first = int(mine[0]) if len(mine) else 0
        assert torch.equal(owner[b][kept], expected.gt_index + first * (expected.gt_index >= 0))
        assert (owner[b][~kept] == -1).all()
        assert torch.equal(found[1][b][kept], expected.iou)
        # The last bit of torch's power depends on where in its tensor a number is.
        rounding = dict(rtol=8 * torch.finfo(dtype).eps, atol=0)
        torch.testing.assert_close(found[0][b][kept], expected.metric, **rounding)
        torch.testing.assert_close(t_hat[b][kept], restated_t_hat(expected, len(mine)), **rounding)


def test_rows_of_iou_are_those_of_mmdet():
    _, boxes, _, _, objects = crowd(anchors=(50, 60))
    boxes[:, 2:, ::7] = boxes[:, :2, ::7]  # nothing but a point
    found = box_rows_iou(boxes[objects.images], objects.boxes)
    for row, image, gt in zip(found, objects.images, objects.boxes, strict=True):
        assert torch.equal(row, bbox_overlaps(boxes[image].T, gt[None]).squeeze(1))


# Equations 10 to 12


def test_task_aligned_focal_loss_equals_mmdet():
    scores = rand(40, 5).sigmoid()
    labels = torch.arange(40) % 6  # class 5 is background
    t_hat = rand(40, seed=3).sigmoid() * (labels < 5)
    target = torch.nn.functional.one_hot(labels, 6)[:, :-1] * t_hat[:, None]
    ours = task_aligned_focal_loss(scores, target, gamma=2.0).sum()
    theirs = QualityFocalLoss(activated=True, beta=2.0, reduction="sum")(scores, (labels, t_hat))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)


def test_warm_up_focal_loss_equals_mmdet():
    scores, target = rand(30, 4).sigmoid(), torch.nn.functional.one_hot(torch.arange(30) % 5, 5)[:, :-1]
    ours = focal_loss_with_prob(scores, target.double(), 2.0, 0.25)
    theirs = py_focal_loss_with_prob(scores, target, reduction="none")
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)


def sparse_case(dtype=torch.float32, levels=((4, 5), (2, 3))):
    """Scores of a batch in levels, targets of which two entries are to be ignored, weights of the anchors."""
    B, C, A = 3, 4, sum(h * w for h, w in levels)
    scores = [rand(B, C, h, w, seed=h).mul(3).sigmoid().to(dtype) for h, w in levels]
    scores[0][0, 0, 0, :3] = torch.tensor([0.0, 1.0, 1.0], dtype=dtype)
    anchors = torch.tensor([1, 0, A - 1, 2 * A + 7, 2 * A - 2, 1, 5])
    positive = torch.tensor([True] * 5 + [False] * 2)
    targets = torch.tensor([0.7, 0.2, 1.0, 0.4, 0.9, 0.5, 0.5], dtype=dtype)
    weights = torch.ones(B, A, dtype=dtype)
    weights[1, 15:], weights[0, 1] = 0, 2.5
    return scores, ScoreTargets(anchors, torch.tensor([0, 0, 3, 1, 2, 3, 1]), targets, positive), weights


SUMS = {
    "aligned": (sum_of_task_aligned_focal_loss, task_aligned_focal_loss, dict(gamma=2.0)),
    "aligned, gamma 1.5": (sum_of_task_aligned_focal_loss, task_aligned_focal_loss, dict(gamma=1.5)),
    "aligned, gamma 0": (sum_of_task_aligned_focal_loss, task_aligned_focal_loss, dict(gamma=0.0)),
    "warm-up": (sum_of_focal_loss_with_prob, focal_loss_with_prob, dict(gamma=2.0, alpha=0.25)),
}


@pytest.mark.parametrize("at_once", [1, 7, 50, 2**18])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("case", SUMS)
def test_sums_over_scores_are_those_of_the_elementwise_losses(case, dtype, at_once, monkeypatch):
    """Value and gradient, saturated scores included, whichever scores are computed together."""
    monkeypatch.setitem(SCORES_AT_ONCE, "cpu", at_once)
    total, element, options = SUMS[case]
    scores, targets, weights = sparse_case(dtype)
    scores = [level.requires_grad_() for level in scores]
    found = total(scores, targets, weights, **options)
    gradients = torch.autograd.grad(3 * found, scores)
    flat = torch.cat([level.flatten(2) for level in scores], 2).transpose(1, 2).double()  # [B, A, C]
    losses = element(flat, target_map(targets, flat.shape).double(), **options) * weights[..., None].double()
    expected = torch.autograd.grad(3 * losses.sum(), scores)
    rtol = 1e-6 if dtype == torch.float32 else 1e-8  # torch's bound of 1e-12 is a float32
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), losses.sum(), rtol=rtol, atol=0)
    for mine, theirs in zip(gradients, expected, strict=True):
        assert mine.isfinite().all()
        torch.testing.assert_close(mine, theirs, rtol=rtol, atol=0)


def test_sums_over_scores_of_half_precision_are_computed_in_full():
    scores, targets, weights = sparse_case()
    halves = [level.bfloat16().requires_grad_() for level in scores]
    fulls = [level.detach().float().requires_grad_() for level in halves]
    found = sum_of_task_aligned_focal_loss(halves, targets, weights.bfloat16(), 2.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = sum_of_task_aligned_focal_loss(fulls, targets, weights, 2.0)
    assert found.dtype == expected.dtype == torch.float32
    assert found == expected
    for mine, theirs in zip(
        torch.autograd.grad(found, halves), torch.autograd.grad(expected, fulls), strict=True
    ):
        assert torch.equal(mine, theirs.bfloat16())


def test_sums_over_scores_may_be_differentiated_again_and_again_but_not_twice():
    scores, targets, weights = sparse_case(torch.float64)
    scores = [level.requires_grad_() for level in scores]
    total = sum_of_task_aligned_focal_loss(scores, targets, weights, 2.0)
    first = torch.autograd.grad(total, scores, retain_graph=True)
    again = torch.autograd.grad(total, scores, retain_graph=True)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    with pytest.raises(RuntimeError, match="no second derivative: call backward without create_graph"):
        torch.autograd.grad(total, scores, create_graph=True)


def test_without_positives_all_scores_are_negatives():
    scores, _, weights = sparse_case()
    none = torch.zeros(0, dtype=torch.long)
    targets = ScoreTargets(none, none, torch.zeros(0), none.bool())
    flat = torch.cat([level.flatten(2) for level in scores], 2)  # [B, C, A]
    expected = (task_aligned_focal_loss(flat, torch.zeros_like(flat), 2.0) * weights[:, None]).sum()
    torch.testing.assert_close(sum_of_task_aligned_focal_loss(scores, targets, weights, 2.0), expected)


def test_focal_loss_by_hand():
    """Eq. 11 for one positive of t-hat 0.8 at s = 0.5 and one negative at s = 0.3."""
    loss = task_aligned_focal_loss(torch.tensor([0.5, 0.3]), torch.tensor([0.8, 0.0]), 2.0)
    torch.testing.assert_close(loss, torch.tensor([0.09 * 0.6931472, 0.09 * 0.3566749]))


def test_losses_are_finite_and_so_are_their_gradients_at_saturated_scores():
    scores = torch.tensor([0.0, 1.0, 0.0, 1.0], requires_grad=True)
    loss = task_aligned_focal_loss(scores, torch.tensor([0.7, 0.7, 0.0, 0.0]), 2.0)
    loss.sum().backward()
    assert loss.isfinite().all()
    assert scores.grad.isfinite().all()


def test_focal_loss_on_labels_calls_no_compiled_operator_and_equals_mmdet(monkeypatch):
    from mmdet.models.losses import FocalLoss as MMDetFocalLoss
    from mmdet.models.losses import focal_loss

    logits, labels = rand(20, 3), torch.arange(20) % 4
    expected = MMDetFocalLoss()(logits, labels, avg_factor=7.0)
    monkeypatch.setattr(focal_loss, "sigmoid_focal_loss", None)
    # As mmdet decides on a GPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert FocalLoss()(logits, labels, avg_factor=7.0) == expected


def test_centerness_by_hand():
    points, boxes = torch.tensor([[5.0, 5.0], [2.0, 5.0]]), torch.tensor([[0.0, 0, 10, 10]] * 2)
    torch.testing.assert_close(centerness_target(points, boxes), torch.tensor([1.0, 0.5]))


# Codecs, layers, selection


def test_point_codec_round_trip_and_relu():
    coder = PointBBoxCoder(anchor_scale=8)
    anchors = torch.tensor([[-32.0, -32, 32, 32], [100, 60, 164, 124]])
    boxes = torch.tensor([[-8.0, -16, 24, 40], [120, 80, 140, 110]])
    encoded = coder.encode(anchors, boxes)
    assert encoded[0].tolist() == [1.0, 2.0, 3.0, 5.0]  # strides of 8 px from the origin
    torch.testing.assert_close(coder.decode(anchors, encoded), boxes)
    centre = coder.decode(anchors, torch.full((2, 4), -3.0))
    assert torch.equal(centre, torch.tensor([[0.0, 0, 0, 0], [132, 92, 132, 92]]))


def test_deformable_convolution_equals_mmcv(torchvision_operators):
    """The layer: its parameters, and the order of offsets and masks in what it predicts."""
    theirs = mmcv.ops.ModulatedDeformConv2dPack(8, 6, 3, padding=1, deform_groups=2, bias=False)
    ours = ModulatedDeformConv2d(8, 6, 3, padding=1, deform_groups=2, bias=False)
    torch.nn.init.normal_(theirs.conv_offset.weight, std=0.2)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = rand(2, 8, 7, 9)
    torch.testing.assert_close(ours.double()(x), theirs.double()(x), rtol=1e-9, atol=1e-12)


def test_deformable_convolution_by_bilinear_sampling():
    """Written out with `grid_sample`: sum over kernel points of weight x mask x value at the moved point."""
    layer = ModulatedDeformConv2d(4, 3, 3, padding=1, deform_groups=2, bias=False).double()
    torch.nn.init.normal_(layer.conv_offset.weight, std=0.2)
    H, W = 5, 6
    x = rand(1, 4, H, W)
    dy_dx, mask = layer.conv_offset(x).split([2 * 2 * 9, 2 * 9], 1)
    dy_dx, mask = dy_dx.view(2, 9, 2, H, W), mask.view(2, 9, H, W).sigmoid()  # group, point, dy and dx
    rows, columns = torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij")
    expected = torch.zeros(1, 3, H, W, dtype=torch.float64)
    for group in range(2):
        channels = slice(2 * group, 2 * group + 2)
        for point in range(9):
            i, j = divmod(point, 3)
            y, x_ = rows + i - 1 + dy_dx[group, point, 0], columns + j - 1 + dy_dx[group, point, 1]
            grid = torch.stack([2 * x_ / (W - 1) - 1, 2 * y / (H - 1) - 1], -1)[None]  # [1, H, W, 2]
            values = grid_sample(x[:, channels], grid, padding_mode="zeros", align_corners=True)
            weight = layer.weight[:, channels, i, j]  # [3, 2]
            expected += torch.einsum("oc,bchw->bohw", weight, values * mask[group, point])
    torch.testing.assert_close(layer(x), expected, rtol=1e-9, atol=1e-12)


def test_candidates_by_location_keep_every_class_and_by_pair_do_not():
    scores = torch.tensor([[0.9, 0.8], [0.7, 0.01], [0.6, 0.6]])
    boxes = torch.arange(12.0).view(3, 4)
    level = DenseLevel(scores, scores, boxes, boxes[:, :2], (1, 3), 8)
    by_location = select_candidates(level, 0.05, 2, "location")
    assert sorted(by_location[1].tolist()) == pytest.approx([0.7, 0.8, 0.9])
    by_pair = select_candidates(level, 0.05, 2, "pair")
    assert by_pair[1].tolist() == pytest.approx([0.9, 0.8])
    with pytest.raises(ValueError, match="nms_pre_by is 'box'"):
        select_candidates(level, 0.05, 2, "box")


@pytest.mark.parametrize(
    ("by", "thr_on"), [("pair", "score"), ("confident_pair", "score"), ("pair", "confidence")]
)
@pytest.mark.parametrize("score_thr", [0.0, 0.3])
def test_candidates_are_the_first_of_all_pairs_in_a_stable_order(by, thr_on, score_thr):
    scores = torch.rand(300, 7, generator=torch.Generator().manual_seed(0)).mul(20).round() / 20  # with ties
    confidence = (scores.flip(0) * scores * 20).round() / 20
    boxes = torch.arange(1200.0).view(300, 4)
    level = DenseLevel(scores, confidence, boxes, boxes[:, :2], (1, 300), 8)
    rank, passes = scores if by == "pair" else confidence, scores if thr_on == "score" else confidence
    pairs = [(anchor, c) for anchor in range(300) for c in range(7) if passes[anchor, c] > score_thr]
    for nms_pre in (1, 40, 299, 600):
        assert len(pairs) > nms_pre
        first = sorted(pairs, key=lambda pair: -rank[pair])[:nms_pre]
        found_boxes, found, labels = select_candidates(level, score_thr, nms_pre, by, thr_on)
        assert list(zip((found_boxes[:, 0] / 4).tolist(), labels.tolist(), strict=True)) == first
        assert found.tolist() == [confidence[pair] for pair in first]


def test_candidates_by_score_and_by_confidence():
    """Pairs (score, confidence) of one anchor each; the third has a score below the threshold alone."""
    scores = torch.tensor([[0.9], [0.6], [0.04], [0.5], [0.3]])
    confidence = torch.tensor([[0.3], [0.5], [0.2], [0.04], [0.6]])
    boxes = torch.arange(20.0).view(5, 4)
    level = DenseLevel(scores, confidence, boxes, boxes[:, :2], (1, 5), 8)

    def kept(by: str, thr_on: str, nms_pre: int = 3) -> list[float]:
        found = select_candidates(level, 0.05, nms_pre, by, thr_on)[1]
        return sorted(found.tolist(), reverse=True)

    assert kept("pair", "score") == pytest.approx([0.5, 0.3, 0.04])
    assert kept("confident_pair", "score") == pytest.approx([0.6, 0.5, 0.3])
    assert kept("confident_pair", "score", 2) == pytest.approx([0.6, 0.5])
    assert kept("pair", "confidence") == pytest.approx([0.6, 0.5, 0.3])
    assert kept("pair", "confidence", 2) == pytest.approx([0.5, 0.3])
    assert kept("confident_pair", "confidence", 4) == pytest.approx([0.6, 0.5, 0.3, 0.2])
    assert kept("location", "score", 4) == pytest.approx([0.6, 0.5, 0.3])
    assert kept("location", "confidence", 4) == pytest.approx([0.6, 0.5, 0.3, 0.2])
    with pytest.raises(ValueError, match="score_thr_on is 'iou'; it must be 'score' or 'confidence'"):
        kept("pair", "iou")
