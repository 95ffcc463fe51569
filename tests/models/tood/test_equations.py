"""The pure tensor functions, equation by equation, and each deliberate difference from mmdet."""

import mmcv.ops
import pytest
import torch
from mmdet.models.losses import QualityFocalLoss
from mmdet.models.losses.focal_loss import py_focal_loss_with_prob
from mmdet.models.utils import sigmoid_geometric_mean
from torch.nn.functional import grid_sample

from tood.models.common.box_coders import PointBBoxCoder
from tood.models.common.dense_level import DenseLevel
from tood.models.common.dense_prediction import select_candidates
from tood.models.common.layers import ModulatedDeformConv2d
from tood.models.common.losses import FocalLoss
from tood.models.tood.losses import focal_loss_with_prob, task_aligned_focal_loss
from tood.models.tood.spatial_alignment import align_boxes, align_scores, keep_valid
from tood.models.tood.t_head import THead
from tood.models.tood.task_alignment import normalise_alignment, task_aligned_assign
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
    return task_aligned_assign(*grid_case(), **settings)


def test_anchor_wanted_by_two_objects_goes_to_the_larger_iou_or_by_option_to_the_smaller_area():
    scores, boxes, centres, gt_boxes, labels = grid_case()
    boxes[0] = gt_boxes[1]  # anchor 0 sits in both and predicts the large object exactly
    options = dict(alpha=1.0, beta=6.0, topk=13)
    arguments = (scores, boxes, centres, gt_boxes, labels)
    assert task_aligned_assign(*arguments, **options).gt_index[0] == 1
    assert task_aligned_assign(*arguments, **options, conflict="area").gt_index[0] == 0
    with pytest.raises(ValueError, match="conflict is 'size'"):
        task_aligned_assign(*arguments, **options, conflict="size")


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
    found = task_aligned_assign(scores, boxes, centres, gt_boxes[:1], labels[:1], alpha=1.0, beta=6.0, topk=1)
    assert (found.gt_index == -1).all()


def test_t_hat_peaks_at_the_largest_iou_of_each_object():
    assignment = assign()
    t_hat = normalise_alignment(assignment, 2)
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
    found = task_aligned_assign(scores, boxes, centres, torch.zeros(0, 4), none, alpha=1, beta=6, topk=13)
    assert (found.gt_index == -1).all()
    assert (normalise_alignment(found, 0) == 0).all()


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
