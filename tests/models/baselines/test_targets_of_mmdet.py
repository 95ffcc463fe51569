"""Targets that are computed without waiting for a GPU equal those of mmdet's own heads to the bit."""

import pytest
import torch
from helpers.mmdet_heads import equals_in_order, narrow_mmdet_head, total
from helpers.point_heads import CLASSES, METAS, SIZE, STRIDES, hard_cases, narrow_head, objects
from mmdet.models.losses import isr_p
from mmengine.structures import InstanceData
from torch import Tensor

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
GRIDS = [(-(-SIZE[0] // stride), -(-SIZE[1] // stride)) for stride in STRIDES]
BACKGROUND = len(CLASSES)


def drawn(seed: int) -> InstanceData:
    """Up to 40 objects: of whole, half or any numbers of pixels, some alike, at borders or beyond."""
    generator = torch.Generator().manual_seed(seed)
    number = [0, 1, 2, 7, 40][seed % 5]
    corner = torch.rand(number, 2, generator=generator) * torch.tensor([150.0, 120.0]) - 5
    side = torch.rand(number, 2, generator=generator) ** 3 * torch.tensor([170.0, 140.0])
    boxes = torch.cat([corner, corner + side], 1)
    if seed % 3 < 2:  # equal sizes, sides on points and on borders between cells
        unit = (8, 4)[seed % 3]
        boxes = (boxes / unit).round() * unit
        boxes[:, 2:] = boxes[:, 2:].maximum(boxes[:, :2] + unit)
    if seed % 2:
        boxes = boxes.clamp(min=0).minimum(torch.tensor([160.0, 128, 160, 128]))
    boxes[number // 2 :] = boxes[: number - number // 2].clone()  # each twice
    labels = torch.randint(BACKGROUND, (number,), generator=generator)
    return InstanceData(bboxes=boxes, labels=labels)


IMAGES = {f"drawn {seed}": drawn(seed) for seed in range(30)} | hard_cases()
images = pytest.mark.parametrize("gt", IMAGES.values(), ids=IMAGES)
# mmdet's logarithms of sides are infinite for the others
WITH_AREA = {name: gt for name, gt in IMAGES.items() if (gt.bboxes[:, 2:] > gt.bboxes[:, :2]).all()}


@pytest.fixture(autouse=True)
def in_order(monkeypatch):
    equals_in_order(monkeypatch)


def of_levels(levels: list[Tensor], images: int) -> Tensor:
    """Levels of [B * H * W, ...] as [B * A, ...], image after image."""
    return torch.cat([level.unflatten(0, (images, -1)) for level in levels], 1).flatten(0, 1)


FCOS = "fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py"
IMPROVED = "fcos/fcos_r50-caffe_fpn_gn-head-center-normbbox-centeronreg-giou_1x_coco.py"


@images
@pytest.mark.parametrize(("run", "file"), [("fcos.py", FCOS), ("fcos_imprv.py", IMPROVED)])
def test_fcos(run, file, gt):
    ours, theirs = narrow_head(run), narrow_mmdet_head(file)
    assert ours.center_sampling == theirs.center_sampling == ("imprv" in run)
    gts = [gt, objects([10, 10, 70, 64])]
    points = ours.prior_generator.grid_priors(GRIDS, device="cpu")
    labels, distances = (of_levels(levels, 2) for levels in theirs.get_targets(points, gts))
    found = ours._targets(points, gts)
    positive = labels < BACKGROUND
    assert torch.equal(found.labels, labels)
    assert torch.equal(found.positive, positive)
    assert torch.equal(found.distances[positive], distances[positive])
    assert torch.equal(found.centerness[positive], theirs.centerness_target(distances[positive]))
    assert found.centerness[~positive].sum() == 0


@images
def test_foveabox(gt):
    ours = narrow_head("fovea.py")
    theirs = narrow_mmdet_head("foveabox/fovea_r50_fpn_4xb4-1x_coco.py")
    gts = [gt, objects([10, 10, 70, 64])]
    points = ours.prior_generator.grid_priors(GRIDS, device="cpu")
    levels = theirs.get_targets(gts, GRIDS, points)
    sizes = [2 * len(level) for level in points]
    labels, targets = (of_levels(part.split(sizes), 2) for part in levels)
    found = ours._targets(points, GRIDS, gts)
    assert torch.equal(found[0], labels)
    assert torch.equal(found[1], labels < BACKGROUND)
    assert torch.equal(found[2], targets)


RETINANET = "retinanet/retinanet_r50_fpn_1x_coco.py"
PISA = "pisa/retinanet-r50_fpn_pisa_1x_coco.py"
FREEANCHOR = "free_anchor/freeanchor_r50_fpn_1x_coco.py"
OTHERS = [objects([10, 10, 70, 64]), objects(), objects([0, 0, 90, 90], [5, 5, 80, 99], labels=[1, 1])]


def anchor_maps(images: int, channels: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(images, 9 * channels, *grid, generator=generator) for grid in GRIDS]


@images
def test_retinanet(gt):
    ours, theirs = narrow_head("retinanet.py"), narrow_mmdet_head(RETINANET)
    gts, metas = [gt, OTHERS[0]], METAS[::-1]
    scores = anchor_maps(2, BACKGROUND)
    labels, weights, deltas, box_weights, number = theirs.get_targets(
        *theirs.get_anchors(GRIDS, metas, "cpu"), gts, metas
    )
    labels, weights, deltas, box_weights = (
        torch.cat(levels, 1).flatten(0, 1) for levels in (labels, weights, deltas, box_weights)
    )
    found = ours._targets(scores, gts, metas)
    positive = labels < BACKGROUND
    assert torch.equal(found.labels, labels)
    assert torch.equal(found.label_weights, weights)
    assert torch.equal(found.owners.flatten() >= 0, positive)
    assert torch.equal(found.deltas[positive], deltas[positive])
    assert torch.equal(box_weights[:, 0] > 0, positive)
    assert found.number == number


@images
def test_pisa_ranks(gt, monkeypatch):
    """Beside two images more, as mmdet numbers objects over images."""
    ours, theirs = narrow_head("pisa.py"), narrow_mmdet_head(PISA)
    gts, metas = [gt, *OTHERS], METAS[:1] * 4
    logits, deltas = anchor_maps(4, BACKGROUND), anchor_maps(4, 4, seed=1)
    expected, found = [], []

    def recorded(*args, **kwargs):
        expected.append(isr_p(*args, **kwargs))
        return expected[-1]

    monkeypatch.setattr("mmdet.models.dense_heads.pisa_retinanet_head.isr_p", recorded)
    theirs.loss_by_feat(logits, deltas, gts, metas)
    monkeypatch.setattr(
        type(ours).__mro__[1], "_losses", lambda self, a, b, targets: found.append(targets) or {}
    )
    ours.loss_by_feat(logits, deltas, gts, metas)
    ((labels, weights, _, _),) = expected
    assert torch.equal(found[0].labels, labels)
    torch.testing.assert_close(found[0].label_weights, weights, rtol=1e-6, atol=0)


@pytest.mark.parametrize("gt", WITH_AREA.values(), ids=WITH_AREA)
@pytest.mark.parametrize(
    ("run", "file"),
    [("retinanet.py", RETINANET), ("pisa.py", PISA), ("freeanchor.py", FREEANCHOR)],
)
def test_losses_on_anchors(run, file, gt):
    ours, theirs = narrow_head(run), narrow_mmdet_head(file)
    gts, metas = [gt, *OTHERS], [*METAS, *METAS]
    maps = [anchor_maps(4, n, seed=n) for n in (BACKGROUND, 4)]
    of_heads = []
    for head in (ours, theirs):
        leaves = [[level.clone().requires_grad_() for level in kind] for kind in maps]
        losses = total(head.loss_by_feat(*leaves, gts, metas))
        sum(loss.sum() for loss in losses.values()).backward()
        of_heads.append((losses, [level.grad for kind in leaves for level in kind]))
    (losses, gradients), (expected, their_gradients) = of_heads
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, rtol=1e-5, atol=0, msg=name)
    for ours, theirs in zip(gradients, their_gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)


def test_the_images_have_positives():
    theirs = narrow_mmdet_head("foveabox/fovea_r50_fpn_4xb4-1x_coco.py")
    points = theirs.prior_generator.grid_priors(GRIDS, device="cpu")
    positives = [(theirs.get_targets([gt], GRIDS, points)[0] < BACKGROUND).sum() for gt in IMAGES.values()]
    assert sum(number > 0 for number in positives) > 15
    assert len(WITH_AREA) > 20
