"""Score voting by hand, in loops, and against mmdet's PAA head on the same inputs."""

import math
from types import SimpleNamespace

import pytest
import torch
from mmdet.models.dense_heads import PAAHead
from mmdet.structures.bbox import bbox_overlaps
from torch import Tensor
from torchvision.ops import batched_nms

from tood.models.common.dense_level import DenseLevel
from tood.models.common.dense_prediction import select_detections
from tood.models.common.score_voting import vote

CLASSES = 4


def crowded(number: int = 80) -> tuple[Tensor, Tensor]:
    """Boxes [A, 4] that overlap in groups, and scores [A, C]; some boxes have several classes."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.rand(8, 2, generator=generator, dtype=torch.float64).repeat(number // 8, 1) * 90 + 20
    corner = centres - 10 + torch.rand(number, 2, generator=generator, dtype=torch.float64) * 6
    size = 15 + torch.rand(number, 2, generator=generator, dtype=torch.float64) * 12
    scores = torch.rand(number, CLASSES, generator=generator, dtype=torch.float64) ** 3
    return torch.cat([corner, corner + size], 1), scores


def candidates(boxes: Tensor, scores: Tensor, threshold: float = 0.05) -> tuple[Tensor, Tensor, Tensor]:
    anchor, label = (scores > threshold).nonzero(as_tuple=True)
    return boxes[anchor], scores[anchor, label], label


def test_by_hand():
    """IoU .5 with a box of the same width: weights .8 and .4 exp(-.25 / .025) = .4 exp(-10)."""
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5], [1, 1, 9, 9], [9, 9, 19, 19]], dtype=torch.float64)
    scores = torch.tensor([0.8, 0.4, 0.9, 0.7], dtype=torch.float64)
    labels = torch.tensor([2, 2, 1, 2])  # the third box has another class, the fourth an IoU of 1 / 199
    weight = 0.4 * math.exp(-10)
    bottom = (0.8 * 10 + weight * 5) / (0.8 + weight)
    (found,) = vote(boxes[:1], labels[:1], boxes, scores, labels).tolist()
    assert found == pytest.approx([0, 0, 10, bottom], rel=1e-12)
    assert 9.9998 < bottom < 9.9999


@pytest.mark.parametrize(("side", "votes"), [(1.0, False), (1.01, True)])
def test_a_vote_needs_an_iou_above_a_hundredth(side, votes):
    """Of a small box within one of side 10; its score makes up for the small weight."""
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, side, side]], dtype=torch.float64)
    scores = torch.tensor([1e-20, 1.0], dtype=torch.float64)
    labels = torch.zeros(2, dtype=torch.long)
    (found,) = vote(boxes[:1], labels[:1], boxes, scores, labels)
    assert (found[2].item() < 2) is votes


def test_the_weights_are_steep():
    """Of two candidates with the same score, one with an IoU of .9 counts e^(-.4), one of .6 e^(-6.4)."""
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 6, 10]], dtype=torch.float64)
    labels = torch.zeros(3, dtype=torch.long)
    scores = torch.full((3,), 0.5, dtype=torch.float64)
    near, far = math.exp(-0.4), math.exp(-6.4)
    total = 1 + near + far
    (found,) = vote(boxes[:1], labels[:1], boxes, scores, labels).tolist()
    assert found == pytest.approx(
        [0, 0, (10 + 10 * near + 6 * far) / total, (10 + 9 * near + 10 * far) / total]
    )


def test_in_loops():
    pool, scores, of_class = candidates(*crowded())
    kept = batched_nms(pool, scores, of_class, 0.6)
    found = vote(pool[kept], of_class[kept], pool, scores, of_class)
    moved = 0
    for detection, number in zip(found, kept, strict=True):
        sides, total = torch.zeros(4, dtype=torch.float64), 0.0
        for box, score, label in zip(pool, scores, of_class, strict=True):
            iou = bbox_overlaps(pool[number][None], box[None]).item()
            if label == of_class[number] and iou > 0.01:
                weight = score.item() * math.exp(-((1 - iou) ** 2) / 0.025)
                sides, total = sides + weight * box, total + weight
        torch.testing.assert_close(detection, sides / total, rtol=1e-6, atol=1e-9)
        moved += not torch.equal(detection, pool[number])
    assert moved > 10


def test_equals_mmdets():
    boxes, scores = crowded()
    pool, confidence, of_class = candidates(boxes, scores)
    kept = batched_nms(pool, confidence, of_class, 0.6)[:30]
    found = vote(pool[kept], of_class[kept], pool, confidence, of_class)

    detections = torch.cat([pool[kept], confidence[kept, None]], 1)
    with_background = torch.cat([scores, scores.new_zeros(len(scores), 1)], 1)
    expected, labels = PAAHead.score_voting(
        SimpleNamespace(cls_out_channels=CLASSES), detections, of_class[kept], boxes, with_background, 0.05
    )
    by_class = of_class[kept].argsort(stable=True)
    assert torch.equal(labels, of_class[kept][by_class])
    torch.testing.assert_close(found[by_class], expected[:, :4], rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(confidence[kept][by_class], expected[:, 4], rtol=0, atol=0)
    assert not torch.isclose(found, pool[kept], rtol=1e-3).all()


@pytest.mark.parametrize(
    ("box", "score"), [([3.0, 3, 3, 9], 0.5), ([3.0, 3, 9, 9], 0.0)], ids=["no area", "no score"]
)
def test_a_box_without_votes_stays(box, score):
    boxes, labels = torch.tensor([box]), torch.zeros(1, dtype=torch.long)
    assert vote(boxes, labels, boxes, torch.tensor([score]), labels).tolist() == [box]


def test_nothing_detected():
    nothing = vote(
        torch.zeros(0, 4), torch.zeros(0).long(), torch.zeros(0, 4), torch.zeros(0), torch.zeros(0).long()
    )
    assert nothing.shape == (0, 4)


# As part of the prediction


def levels_of(boxes: Tensor, scores: Tensor) -> list[DenseLevel]:
    half = len(boxes) // 2
    return [
        DenseLevel(scores[part], scores[part], boxes[part], boxes[part, :2], (1, half), 8)
        for part in (slice(None, half), slice(half, None))
    ]


def detect(levels: list[DenseLevel], meta: dict | None = None, **changes):
    cfg = dict(score_thr=0.05, nms=dict(iou_threshold=0.6), max_per_img=10, min_bbox_size=0) | changes
    return select_detections(levels, meta or {}, cfg, rescale=meta is not None)


def test_the_candidates_before_nms_vote_after_the_cut():
    """Scores, classes and order stay; each box is that of voting by all candidates, of which ten stay."""
    boxes, scores = crowded()
    plain = detect(levels_of(boxes, scores))
    voted = detect(levels_of(boxes, scores), score_voting=True)
    assert len(plain) == len(voted) == 10
    assert torch.equal(plain.scores, voted.scores)
    assert torch.equal(plain.labels, voted.labels)
    pool, confidence, of_class = candidates(boxes, scores)
    torch.testing.assert_close(voted.bboxes, vote(plain.bboxes, plain.labels, pool, confidence, of_class))
    alone = vote(plain.bboxes, plain.labels, plain.bboxes, plain.scores, plain.labels)
    assert not torch.isclose(voted.bboxes, alone, rtol=1e-3).all()


def test_voting_does_not_depend_on_the_scale_of_the_image():
    """The authors vote in pixels of the network's input; here boxes have been scaled by then."""
    levels = levels_of(*crowded())
    inside = detect(levels, score_voting=True)
    scaled = detect(levels, dict(scale_factor=(0.5, 0.7)), score_voting=True)
    factors = torch.tensor([0.5, 0.7, 0.5, 0.7], dtype=torch.float64)
    torch.testing.assert_close(scaled.bboxes, inside.bboxes / factors)


def test_no_candidate_at_all():
    boxes, scores = crowded()
    assert len(detect(levels_of(boxes, scores * 0), score_voting=True)) == 0
