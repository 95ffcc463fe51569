"""PAA of its authors' code: its arithmetic restated object by object, and where it differs from mmdet's."""

import numpy as np
import pytest
import torch
from helpers.point_heads import configuration
from mmdet.models.task_modules.assigners import MaxIoUAssigner
from mmdet.registry import MODELS
from mmdet.structures.bbox import bbox_overlaps
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from sklearn.mixture import GaussianMixture
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

from tood.engine.side_by_side import averaging
from tood.models import OwnBestIoUAssigner
from tood.models.baselines.paa_released import choose_positives, number_of_positives

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
SIZE, CLASSES, CHANNELS = (128, 160), 5, 16
META = dict(img_shape=SIZE, pad_shape=SIZE, ori_shape=SIZE, scale_factor=(1.0, 1.0))
GT = InstanceData(
    bboxes=torch.tensor([[3.0, 3, 40, 50], [30, 30, 90, 100], [34, 34, 94, 104], [100, 20, 108, 27]]),
    labels=torch.tensor([0, 2, 2, 4]),
)
EMPTY = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))


def head(**changes) -> torch.nn.Module:
    init_default_scope("mmdet")
    model = configuration("paa_r101.py").model
    narrow = dict(num_classes=CLASSES, in_channels=CHANNELS, feat_channels=CHANNELS, stacked_convs=2)
    narrow |= dict(norm_cfg=dict(type="GN", num_groups=4))
    built = MODELS.build(
        {**model.bbox_head, **narrow, **changes, "train_cfg": model.train_cfg, "test_cfg": model.test_cfg}
    )
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            if not name.endswith("scale"):
                parameter.copy_(torch.randn_like(parameter) * 0.1)
    return built


def features() -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(
        torch.randn(2, CHANNELS, -(-SIZE[0] // s), -(-SIZE[1] // s), generator=generator)
        for s in (8, 16, 32, 64, 128)
    )


def matched(overlaps: torch.Tensor) -> list[int]:
    """Which object each anchor is a candidate of, -1 for none, by the rule of their matcher."""
    found = []
    for a in range(overlaps.shape[1]):
        own = overlaps[:, a]
        is_best_of_one = any(own[g] == overlaps[g].max() for g in range(len(overlaps)))
        found.append(int(own.argmax()) if own.max() >= 0.1 or is_best_of_one else -1)
    return found


def restated(head, outs, gt: InstanceData, b: int) -> tuple[list[int], torch.Tensor, torch.Tensor]:
    """Object of each anchor of one image, -1 for none; anchors; decoded boxes."""
    grids = [maps.shape[-2:] for maps in outs[0]]
    priors = head.prior_generator.grid_priors(grids, device="cpu")
    anchors = torch.cat(priors)
    levels = [level for level, prior in enumerate(priors) for _ in prior]
    logits = torch.cat([maps[b].flatten(1).T for maps in outs[0]])
    boxes = head.bbox_coder.decode(anchors, torch.cat([maps[b].flatten(1).T for maps in outs[1]]))
    owner = matched(bbox_overlaps(gt.bboxes, anchors)) if len(gt) else [-1] * len(anchors)
    chosen = [-1] * len(anchors)
    for g in range(len(gt)):
        candidates = []
        for level in range(len(priors)):
            of_level = []
            for a, (own, at) in enumerate(zip(owner, levels, strict=True)):
                if own == g and at == level:
                    target = torch.zeros(CLASSES)
                    target[gt.labels[g]] = 1
                    loss = sigmoid_focal_loss(logits[a], target, reduction="sum")
                    loss = loss + generalized_box_iou_loss(boxes[a], gt.bboxes[g])
                    of_level.append((loss.item(), a))
            candidates += sorted(of_level)[:9]
        candidates.sort()
        positive = len(candidates)
        if len(candidates) > 1:
            values = np.array([[loss] for loss, _ in candidates])
            mixture = GaussianMixture(
                2,
                weights_init=[0.5, 0.5],
                means_init=[values[0], values[-1]],
                precisions_init=np.ones((2, 1, 1)),
            ).fit(values)
            likelihood = mixture.score_samples(values)
            first = [k for k, component in enumerate(mixture.predict(values)) if component == 0]
            if first:
                positive = max(first, key=lambda k: (likelihood[k], -k)) + 1
        for _, a in candidates[:positive]:
            chosen[a] = g
    return chosen, anchors, boxes


def test_positives_and_losses_are_the_authors():
    """Losses divided by what other GPUs have too: here twice the positives and IoUs of this one."""
    paa, gts = head(), [GT, EMPTY]
    outs = paa(features())
    with averaging(paa, lambda sums: 2 * sums):
        found = paa.loss_by_feat(*outs, gts, [META] * 2)
    positives = paa.positives_by_feat(*outs, batch_gt_instances=gts, batch_img_metas=[META] * 2)
    loss_cls, loss_bbox, loss_iou, ious, number = 0.0, 0.0, 0.0, 0.0, 0
    for b, gt in enumerate(gts):
        chosen, _, boxes = restated(paa, outs, gt, b)
        expected = {(a, g) for a, g in enumerate(chosen) if g >= 0}
        assert set(zip(positives[b].anchors.tolist(), positives[b].objects.tolist(), strict=True)) == expected
        logits = torch.cat([maps[b].flatten(1).T for maps in outs[0]])
        target = torch.zeros_like(logits)
        iou_logits = torch.cat([maps[b].flatten() for maps in outs[2]])
        for a, g in expected:
            target[a, gt.labels[g]] = 1
            iou = bbox_overlaps(boxes[a : a + 1], gt.bboxes[g : g + 1]).squeeze().detach()
            loss_bbox += iou * generalized_box_iou_loss(boxes[a], gt.bboxes[g])
            loss_iou += torch.nn.functional.binary_cross_entropy_with_logits(iou_logits[a], iou)
            ious, number = ious + iou, number + 1
        loss_cls += sigmoid_focal_loss(logits, target, reduction="sum")
    assert number > 20
    torch.testing.assert_close(found["loss_cls"], loss_cls / (2 * number), rtol=1e-4, atol=0)
    torch.testing.assert_close(found["loss_bbox"], 1.3 * loss_bbox / (2 * ious), rtol=1e-4, atol=0)
    torch.testing.assert_close(found["loss_iou"], 0.5 * loss_iou / (2 * number), rtol=1e-4, atol=0)


def test_without_objects_there_is_a_gradient_everywhere():
    paa = head()
    losses = paa.loss_by_feat(*paa(features()), [EMPTY] * 2, [META] * 2)
    sum(losses.values()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in paa.parameters())


def test_the_best_anchor_of_an_object_goes_to_whom_it_overlaps_most():
    """The third overlaps the second object best of all anchors, and the first object more."""
    overlaps = torch.tensor([[0.8, 0.05, 0.09, 0.00], [0.0, 0.04, 0.06, 0.05]])
    labels = torch.tensor([7, 8])
    options = dict(pos_iou_thr=0.1, neg_iou_thr=0.1, min_pos_iou=0, ignore_iof_thr=-1)
    ours = OwnBestIoUAssigner(**options).assign_wrt_overlaps(overlaps, labels)
    assert ours.gt_inds.tolist() == [1, 0, 1, 0]
    assert ours.labels.tolist() == [7, -1, 7, -1]
    assert MaxIoUAssigner(**options).assign_wrt_overlaps(overlaps, labels).gt_inds.tolist() == [1, 0, 2, 0]
    assert matched(overlaps) == [0, -1, 0, -1]


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([], 0),
        ([0.3], 1),  # mmdet makes nothing of a single one
        ([0.3, 5.0], 1),
        ([0.1, 0.2, 0.3, 5.0, 5.1, 5.2], 2),  # up to the likeliest of the first three
        ([1.0, 1.0, 1.0], 1),
    ],
)
def test_number_of_positives(losses, expected):
    assert number_of_positives(np.array(losses)) == expected


def test_each_level_sends_its_best_candidates():
    """Of one object on two levels; the second has only bad ones, of which one competes."""
    losses = torch.tensor([0.3, 0.1, 0.2, 9.0, 8.0])
    levels = torch.tensor([0, 0, 0, 1, 1])
    found = choose_positives(losses, torch.zeros(5, dtype=torch.long), levels, topk=2)
    assert found.tolist()[3] is False
    assert found.tolist()[0] is False  # the third of its level
    assert found[1]
