import numpy as np
import pytest
import torch

from tood.analysis.table6.alignment import AlignmentOptions, InstanceAlignment, summarise
from tood.analysis.table6.alignment import instance_alignment as all_readings
from tood.analysis.table6.alignment import instance_pools as all_pools

DEFAULT = AlignmentOptions()
SQUARE = torch.tensor([[0.0, 0.0, 100.0, 100.0]])


def instance_alignment(*image):
    """Of one image under one reading, which comes last."""
    confidence, *tensors, options = image
    return all_readings(confidence, all_pools(*tensors), {"": options})[""]


def instance_pools(*image):
    """IoUs and pools of one image under one reading, which comes last."""
    *tensors, options = image
    pools = all_pools(*tensors)
    return pools.ious, pools.of(options)


def boxes_with_iou(ious: list[float]) -> torch.Tensor:
    """Boxes [A, 4] whose IoU with SQUARE is as given: slices of it."""
    return torch.tensor([[0.0, 0.0, 100.0, 100.0 * iou] for iou in ious])


def one_instance(scores: list[float], ious: list[float], options: AlignmentOptions = DEFAULT):
    boxes = boxes_with_iou(ious)
    return instance_alignment(
        torch.tensor(scores)[:, None],
        boxes,
        (boxes[:, :2] + boxes[:, 2:]) / 2,
        SQUARE,
        torch.tensor([0]),
        options,
    )


def random_image(seed: int, anchors: int = 300, classes: int = 3, instances: int = 6):
    """Arguments of instance_alignment with boxes around the instances, without ties."""
    rng = torch.Generator().manual_seed(seed)

    def rand(*shape):
        return torch.rand(*shape, generator=rng, dtype=torch.float64)

    corners = rand(instances, 2) * 60
    gt_boxes = torch.cat([corners, corners + 10 + rand(instances, 2) * 50], dim=1)
    gt_labels = torch.randint(classes, (instances,), generator=rng)
    near = torch.randint(instances, (anchors,), generator=rng)
    boxes = gt_boxes[near] + (rand(anchors, 4) - 0.5) * 12
    return rand(anchors, classes), boxes, (boxes[:, :2] + boxes[:, 2:]) / 2, gt_boxes, gt_labels


def test_same_order_correlates_fully_and_reversed_order_negatively():
    ious = [0.9, 0.7, 0.4, 0.2]
    assert one_instance([0.8, 0.3, 0.2, 0.1], ious).pcc == pytest.approx(1)
    assert one_instance([0.1, 0.2, 0.3, 0.8], ious).pcc == pytest.approx(-1)


def test_hand_computed_spearman_with_a_tie():
    # Ranks of scores 1 2 3 4, of IoU 1 2.5 2.5 4: r = 4.5 / sqrt(5 * 4.5).
    result = one_instance([0.1, 0.2, 0.3, 0.4], [0.25, 0.5, 0.5, 0.75])
    assert result.pcc == pytest.approx(4.5 / np.sqrt(5 * 4.5))


def test_value_correlation_is_pearson_of_raw_numbers():
    scores, ious = [0.1, 0.2, 0.9], [0.25, 0.5, 0.75]
    raw = one_instance(scores, ious, AlignmentOptions(correlation="value"))
    assert raw.pcc == pytest.approx(np.corrcoef(scores, ious)[0, 1], abs=1e-6)
    assert one_instance(scores, ious).pcc == pytest.approx(1)


@pytest.mark.parametrize("seed", range(5))
def test_monotone_maps_of_confidence_change_nothing(seed):
    confidence, *rest = random_image(seed)
    expected = instance_alignment(confidence, *rest, DEFAULT)
    for mapped in (confidence**3, confidence.log(), 5 * confidence - 2):
        actual = instance_alignment(mapped, *rest, DEFAULT)
        for a, e in zip(actual, expected, strict=True):
            np.testing.assert_allclose(a, e)


def test_monotone_maps_of_iou_leave_pcc_unchanged():
    scores = [0.5, 0.9, 0.1, 0.3, 0.7]
    ious = [0.3, 0.8, 0.5, 0.2, 0.6]
    assert one_instance(scores, ious).pcc == pytest.approx(one_instance(scores, [iou**2 for iou in ious]).pcc)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("ownership", ["iou", "centre", "any"])
def test_permuting_anchors_changes_nothing(seed, ownership):
    options = AlignmentOptions(ownership=ownership)
    confidence, boxes, points, *truth = random_image(seed)
    order = torch.randperm(len(boxes), generator=torch.Generator().manual_seed(seed))
    expected = instance_alignment(confidence, boxes, points, *truth, options)
    actual = instance_alignment(confidence[order], boxes[order], points[order], *truth, options)
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, e)


@pytest.mark.parametrize("seed", range(3))
def test_selection_equals_a_stable_sort_of_all_anchors(seed):
    confidence, boxes, points, gt_boxes, gt_labels = random_image(seed)
    confidence = (confidence * 8).round() / 8  # many ties
    ious, pools = instance_pools(boxes, points, gt_boxes, gt_labels, DEFAULT)
    result = instance_alignment(confidence, boxes, points, gt_boxes, gt_labels, DEFAULT)
    for g, label in enumerate(gt_labels):
        scores, overlaps = confidence[pools[g], label].numpy(), ious[g, pools[g]].numpy()
        first = np.argsort(-scores, kind="stable")[:10]
        assert result.pool_size[g] == len(scores)
        assert result.iou[g] == pytest.approx(overlaps[first].mean())


def test_only_the_most_confident_count():
    # 50 anchors in order, then 10 less confident ones with the best boxes.
    scores = [1 - i / 100 for i in range(60)]
    ious = [0.8 - i / 100 for i in range(50)] + [0.95] * 10
    result = one_instance(scores, ious)
    assert result.pcc == pytest.approx(1)
    assert result.iou == pytest.approx(np.mean(ious[:10]), abs=1e-6)
    assert result.pool_size == 60
    assert one_instance(scores, ious, AlignmentOptions(top_pcc=60)).pcc < 0.9


def test_equal_confidence_is_ranked_by_anchor_index():
    options = AlignmentOptions(top_iou=2)
    assert one_instance([0.5] * 4, [0.2, 0.4, 0.8, 0.9], options).iou == pytest.approx(0.3)


def test_pcc_is_undefined_for_single_or_constant_pools():
    assert np.isnan(one_instance([0.5], [0.5]).pcc)
    assert np.isnan(one_instance([0.5, 0.5], [0.5, 0.6]).pcc)
    assert np.isnan(one_instance([0.5, 0.6], [0.5, 0.5]).pcc)


@pytest.mark.parametrize(
    ("floor", "size"), [(0.0, 4), (0.1, 3), (0.5, 2)], ids=["above 0", "above .1", "from .5"]
)
def test_floor_is_strict_below_one_half(floor, size):
    options = AlignmentOptions(iou_floor=floor)
    # 100x12.5 and 100x50 are exact in binary; 0.1 is met from both sides.
    assert one_instance([0.5] * 5, [0.0, 0.0625, 0.125, 0.5, 1.0], options).pool_size == size


def test_an_anchor_belongs_to_one_instance_of_a_class():
    gt_boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [5.0, 0.0, 15.0, 10.0]])
    boxes = torch.tensor([[1.0, 0.0, 11.0, 10.0], [4.0, 0.0, 14.0, 10.0], [2.5, 0.0, 12.5, 10.0]])
    points = torch.tensor([[6.0, 5.0], [9.0, 5.0], [7.5, 5.0]])
    _, pools = instance_pools(boxes, points, gt_boxes, torch.tensor([4, 4]), DEFAULT)
    assert pools.tolist() == [[True, False, True], [False, True, False]]  # a tie: the first
    for ownership in ("centre", "any"):
        _, shared = instance_pools(
            boxes, points, gt_boxes, torch.tensor([4, 4]), AlignmentOptions(ownership=ownership)
        )
        assert shared.all()


@pytest.mark.parametrize("seed", range(5))
def test_pools_of_a_class_are_disjoint_and_hold_the_best_overlap(seed):
    _, boxes, points, gt_boxes, gt_labels = random_image(seed)
    ious, pools = instance_pools(boxes, points, gt_boxes, gt_labels, DEFAULT)
    for label in gt_labels.unique():
        of_class = gt_labels == label
        assert torch.equal(pools[of_class].sum(dim=0) == 1, ious[of_class].amax(dim=0) > 0)
        owned = (ious * pools)[of_class].sum(dim=0)
        assert torch.equal(owned, ious[of_class].amax(dim=0))


def test_another_class_never_owns():
    gt_boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 8.0]])
    boxes = gt_boxes[1:]
    points = torch.tensor([[5.0, 4.0]])
    confidence = torch.tensor([[0.3, 0.9]])
    labels = torch.tensor([0, 1])
    aware = instance_alignment(confidence, boxes, points, gt_boxes, labels, DEFAULT)
    np.testing.assert_allclose(aware.iou, [0.8, 1.0], atol=1e-6)
    agnostic = instance_alignment(
        confidence, boxes, points, gt_boxes, labels, AlignmentOptions(class_aware=False)
    )
    assert agnostic.pool_size.tolist() == [0, 1]


def test_class_agnostic_ranks_by_the_best_class():
    boxes = boxes_with_iou([0.9, 0.5, 0.2])
    confidence = torch.tensor([[0.1, 0.9], [0.5, 0.0], [0.2, 0.1]])
    arguments = (confidence, boxes, boxes[:, 2:] / 2, SQUARE, torch.tensor([0]))
    agnostic = instance_alignment(*arguments, AlignmentOptions(class_aware=False))
    assert agnostic.pcc == pytest.approx(1)
    assert instance_alignment(*arguments, DEFAULT).pcc < 0


def test_centre_ownership_asks_where_the_anchor_is():
    boxes = boxes_with_iou([0.9, 0.9])
    points = torch.tensor([[50.0, 50.0], [100.0, 50.0]])  # the second on the edge
    options = AlignmentOptions(ownership="centre")
    _, pools = instance_pools(boxes, points, SQUARE, torch.tensor([0]), options)
    assert pools.tolist() == [[True, False]]


def test_boxes_without_area_belong_nowhere():
    point = torch.zeros(1, 4)
    ious, pools = instance_pools(point, point[:, :2], point, torch.tensor([0]), DEFAULT)
    assert ious.tolist() == [[0.0]]
    assert not pools.any()


def test_image_without_instances_or_anchors():
    none = instance_alignment(
        torch.rand(5, 2),
        torch.rand(5, 4),
        torch.rand(5, 2),
        torch.empty(0, 4),
        torch.empty(0, dtype=torch.long),
        DEFAULT,
    )
    assert [len(values) for values in none] == [0, 0, 0]
    empty = instance_alignment(
        torch.empty(0, 1),
        torch.empty(0, 4),
        torch.empty(0, 2),
        SQUARE,
        torch.tensor([0]),
        DEFAULT,
    )
    assert empty.pool_size.tolist() == [0]
    assert np.isnan(empty.iou).all()


def test_summary_averages_instances_and_reports_both_treatments_of_empty_pools():
    images = [
        InstanceAlignment(np.array([0.5, np.nan]), np.array([0.6, np.nan]), np.array([9, 0])),
        InstanceAlignment(np.array([1.0, np.nan]), np.array([0.8, 0.1]), np.array([5, 1])),
        InstanceAlignment(np.empty(0), np.empty(0), np.empty(0, dtype=int)),
    ]
    summary = summarise(images, DEFAULT)
    assert summary == {
        "pcc": 0.75,
        "iou": pytest.approx(1.5 / 4),
        "instances": 4,
        "pcc_excluded": 2,
        "empty_pools": 1,
        "iou_empty_zero": pytest.approx(1.5 / 4),
        "iou_empty_drop": pytest.approx(0.5),
    }
    assert summarise(images, AlignmentOptions(empty_pools="drop"))["iou"] == pytest.approx(0.5)


def test_summary_of_nothing_is_undefined():
    summary = summarise([], DEFAULT)
    assert summary["instances"] == 0
    assert np.isnan(summary["pcc"])
    assert np.isnan(summary["iou"])


@pytest.mark.parametrize(
    "wrong",
    [{"ownership": "best"}, {"iou_floor": 0.3}, {"correlation": "x"}, {"empty_pools": "one"}],
)
def test_unknown_readings_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        AlignmentOptions(**wrong)
