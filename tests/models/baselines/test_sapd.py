"""SAPD: its first stage against mmdet's FSAF, its soft weights by hand, its selection of levels."""

import math
from pathlib import Path

import mmdet
import pytest
import torch
from helpers.point_heads import (
    CHANNELS,
    CLASSES,
    GTS,
    METAS,
    OVERLAPPING,
    SEVERAL,
    STRIDES,
    configuration,
    features,
    hard_cases,
    meta,
    narrow_head,
    objects,
)
from mmdet.models.task_modules.assigners.center_region_assigner import scale_boxes
from mmdet.registry import MODELS
from mmdet.structures.bbox import bbox_overlaps
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torchvision.ops import roi_align

from tood.engine.config import build_model
from tood.models.baselines.sapd import PointPairs, centrality, positive_pairs, shrunk_cells, smallest_owner
from tood.models.baselines.sapd_levels import (
    LevelSelection,
    hard_level_weights,
    least_level,
    level_losses,
    soft_level_weights,
)
from tood.models.common.positives import means, of_images

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
FSAF = Path(mmdet.__file__).parent / ".mim" / "configs" / "fsaf" / "fsaf_r50_fpn_1x_coco.py"
STAGES = (0.0, 0.5)  # the progress at which each begins


@pytest.fixture(autouse=True, scope="module")
def mmdet_scope():
    init_default_scope("mmdet")


def at(progress: float, **changes: object) -> torch.nn.Module:
    """The narrow head, told how far the training is; changes of its `train_cfg`."""
    head = narrow_head("sapd.py")
    head.train_cfg.update(changes)
    head.set_progress(0, progress)
    return head


@pytest.fixture(params=STAGES, ids=["first stage", "second stage"])
def head(request):
    return at(request.param)


# Cells, weights, levels


@pytest.mark.parametrize(
    ("box", "columns", "rows"),
    [
        # A fifth of 100 x 40 around (60, 40) is [50, 70] x [36, 44].
        ([10, 20, 110, 60], [6, 7, 8], [4, 5]),
        ([0, 0, 8, 8], [0], [0]),  # [3.2, 4.8]
        ([0, 0, 16, 16], [0, 1], [0, 1]),  # [6.4, 9.6]: on both sides of 8
        ([-100, 2, -60, 6], [0], [0]),  # outside: the nearest cell
        ([150, 60, 400, 100], [9], [7]),  # beyond the map
        ([24, 24, 24, 24], [2], [2]),  # no area, on the border of cells: the one before, as in the ports
    ],
)
def test_cells_of_the_shrunk_box(box, columns, rows):
    found = shrunk_cells(torch.tensor([box], dtype=torch.float), (8, 10), 8, 0.2).view(8, 10)
    assert found.any(0).nonzero().flatten().tolist() == columns
    assert found.any(1).nonzero().flatten().tolist() == rows
    assert found.sum() == len(columns) * len(rows)


@pytest.mark.parametrize(
    ("point", "eta", "expected"),
    [
        ((50, 20), 1.0, 1.0),
        ((25, 20), 1.0, 25 / 75),
        ((75, 30), 1.0, 25 / 75 * 10 / 30),
        ((75, 30), 0.5, math.sqrt(1 / 9)),
        ((75, 30), 0.0, 1.0),
        ((0, 20), 1.0, 0.0),  # on the side
        ((0, 20), 0.0, 0.0),
        ((-5, 20), 1.0, 0.0),
        ((50, 41), 0.0, 0.0),
    ],
)
def test_centrality_by_hand(point, eta, expected):
    found = centrality(torch.tensor([point], dtype=torch.float), torch.tensor([[0.0, 0, 100, 40]]), eta)
    assert found.tolist() == pytest.approx([expected])


def test_centrality_of_boxes_without_area_is_zero():
    points, boxes = torch.tensor([[4.0, 4], [5, 5]]), torch.tensor([[4.0, 4, 4, 4], [5, 0, 5, 9]])
    assert centrality(points, boxes, 1.0).tolist() == [0, 0]


def test_mean_loss_of_levels():
    losses = torch.tensor([1.0, 3, 5, 2, 8])
    found = level_losses(losses, torch.tensor([0, 0, 0, 2, 2]), torch.tensor([0, 0, 1, 1, 2]), (3, 3))
    inf = math.inf
    assert found.tolist() == [[2, 5, inf], [inf, inf, inf], [inf, 2, 8]]
    assert least_level(found).tolist() == [0, -1, 1]
    assert hard_level_weights(least_level(found), 3).tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]


def test_the_three_levels_of_largest_weight_keep_it():
    probabilities = torch.tensor([[0.1, 0.3, 0.05, 0.35, 0.2], [0.6, 0.1, 0.1, 0.05, 0.15]])
    found = soft_level_weights(probabilities, 3)
    assert found[0].tolist() == pytest.approx([0, 0.3, 0, 0.35, 0.2])
    assert found[1].tolist()[::4] == pytest.approx([0.6, 0.15])
    assert (found[1] > 0).sum() == 3
    assert torch.equal(soft_level_weights(probabilities, 9), probabilities)


def test_the_smallest_object_keeps_a_point():
    pairs = PointPairs(
        torch.tensor([0, 1, 2, 0, 3, 2]),
        torch.tensor([5, 5, 5, 1, 2, 2]),
        torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]),
    )
    gt_index, weights = smallest_owner(pairs, torch.tensor([9.0, 4, 6, 6]), 6)
    assert gt_index.tolist() == [-1, 0, 2, -1, -1, 1]  # at point 2 the areas are equal: the first of the two
    assert weights.tolist() == pytest.approx([0, 0.4, 0.6, 0, 0, 0.2])


# The first stage against FSAF


BOXES = [
    [40.0, 30, 90, 80],
    [3.0, 5, 150, 120],
    [101.0, 66, 118, 90],
    [20.0, 50, 140, 71],
    [60.0, 8, 76, 110],
    [8.0, 8, 24, 24],
]
ONE_EACH = [objects(box, labels=[i % len(CLASSES)]) for i, box in enumerate(BOXES)]
ALL_METAS = [meta()] * len(BOXES)


def fsaf() -> torch.nn.Module:
    """mmdet's head of its own configuration, narrow, its points at the centres of cells."""
    model = Config.fromfile(FSAF).model
    model.bbox_head.merge(
        dict(num_classes=len(CLASSES), in_channels=CHANNELS, feat_channels=CHANNELS, stacked_convs=2)
    )
    model.bbox_head.anchor_generator.center_offset = 0.5
    return MODELS.build({**model.bbox_head, "train_cfg": model.train_cfg, "test_cfg": model.test_cfg})


def heads_alike(**changes: object) -> tuple[torch.nn.Module, torch.nn.Module]:
    """SAPD's in the first stage and FSAF's with its weights."""
    ours, theirs = at(0.0, **changes), fsaf()
    with torch.no_grad():
        # Distances that pass the relu: mmdet raises the others to 1e-4.
        ours.conv_reg.weight *= 0.02
        ours.conv_reg.bias.fill_(1.0)
        order = [1, 3, 0, 2]  # left, top, right, bottom to top, bottom, left, right
        theirs.retina_reg.weight.copy_(ours.conv_reg.weight[order])
        theirs.retina_reg.bias.copy_(ours.conv_reg.bias[order])
        theirs.retina_cls.load_state_dict(ours.conv_cls.state_dict())
        theirs.cls_convs.load_state_dict(ours.cls_convs.state_dict())
        theirs.reg_convs.load_state_dict(ours.reg_convs.state_dict())
    return ours, theirs


def fsaf_steps(head: torch.nn.Module, outs: tuple, gts: list, metas: list) -> dict:
    """What FSAF's loss does on the way: its elements, objects of points, losses of levels, and the sums."""
    steps = {"cls": [], "bbox": [], "objects": [], "levels": [], "kept": []}
    collect, reweight = head.collect_loss_level_single, head.reweight_loss_single

    def collected(cls_loss, reg_loss, assigned_gt_inds, labels_seq):
        for name, value in (("cls", cls_loss), ("bbox", reg_loss), ("objects", assigned_gt_inds)):
            steps[name].append(value.detach().clone())
        found = collect(cls_loss, reg_loss, assigned_gt_inds, labels_seq)
        steps["levels"].append(found[0])
        return found

    def reweighted(*args, **kwargs):
        found = reweight(*args, **kwargs)
        steps["kept"].append(found[2])
        return found

    head.collect_loss_level_single, head.reweight_loss_single = collected, reweighted
    steps["losses"] = head.loss_by_feat(*outs, gts, metas)
    return steps


def test_positive_points_are_those_of_fsaf():
    """FSAF also asks that a cell overlaps the shrunk box by more than a hundredth."""
    ours, theirs = heads_alike()
    outs = theirs(features(batch=len(BOXES)))
    grids = [tuple(maps.shape[-2:]) for maps in outs[0]]
    priors = ours.prior_generator.grid_priors(grids, device="cpu")
    anchors, flags = theirs.get_anchors(grids, ALL_METAS, device="cpu")
    surplus = total = 0
    for b, gt in enumerate(ONE_EACH):
        pairs = positive_pairs(priors, grids, list(STRIDES), gt.bboxes, 0.2, 1.0)
        _, _, _, _, expected, *_ = theirs._get_targets_single(
            torch.cat(anchors[b]), torch.cat(flags[b]), gt, ALL_METAS[b]
        )
        assert set(expected.tolist()) <= set(pairs.points.tolist())
        more = sorted(set(pairs.points.tolist()) - set(expected.tolist()))
        (x1, y1, x2, y2) = gt.bboxes[0].tolist()
        dx, dy = 0.4 * (x2 - x1), 0.4 * (y2 - y1)
        for a1, b1, a2, b2 in torch.cat(anchors[b])[more].tolist():
            overlap = (min(a2, x2 - dx) - max(a1, x1 + dx)) * (min(b2, y2 - dy) - max(b1, y1 + dy))
            assert 0 < overlap <= 0.01 * (a2 - a1) * (b2 - b1)
        surplus += len(more)
        total += len(pairs.points)
    assert surplus < total / 4
    assert total > 60


def test_losses_of_points_and_levels_are_those_of_fsaf():
    """For points that both have. With eta = 0 they weigh alike, as in FSAF."""
    ours, theirs = heads_alike(eta=0.0)
    maps = features(batch=len(BOXES))
    outs = ours(maps)
    steps = fsaf_steps(theirs, theirs(maps), ONE_EACH, ALL_METAS)
    logits, boxes = ours._rows_of_images(*outs[:2])
    grids = [tuple(x.shape[-2:]) for x in outs[0]]
    priors = ours.prior_generator.grid_priors(grids, device="cpu")
    sizes = [len(points) for points in priors]
    compared, same_regions = 0, 0
    for b, gt in enumerate(ONE_EACH):
        pairs = positive_pairs(priors, grids, list(STRIDES), gt.bboxes, 0.2, 0.0)
        cls = ours._focal_loss(logits[b, pairs.points], gt.labels[pairs.objects])
        box = ours.loss_bbox(boxes[b, pairs.points], gt.bboxes[pairs.objects], reduction_override="none")
        levels = torch.bucketize(pairs.points, torch.tensor(sizes).cumsum(0), right=True)
        found = level_losses(cls + box, pairs.objects, levels, (1, len(sizes)))[0]
        for level, size in enumerate(sizes):
            of_image = slice(b * size, (b + 1) * size)
            theirs_at = steps["objects"][level][of_image]
            expected_cls = steps["cls"][level][of_image].sum(-1)
            expected_box = steps["bbox"][level][of_image]
            here = levels == level
            points = pairs.points[here] - sum(sizes[:level])
            both = theirs_at[points] == b
            torch.testing.assert_close(cls[here][both], expected_cls[points][both], rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(box[here][both], expected_box[points][both], rtol=1e-5, atol=1e-5)
            compared += int(both.sum())
            if both.all() and len(both):
                same_regions += 1
                torch.testing.assert_close(found[level], steps["levels"][level][b], rtol=1e-5, atol=0)
    assert compared > 60
    assert same_regions > len(BOXES)


def test_level_and_sums_are_those_of_fsaf():
    """Objects whose cells are the same in both.

    FSAF does not train the class of an object where its shrunk box has a part of a cell that it does not use.
    These are negatives here, so the class loss is larger by just that.
    """
    boxes = [[4, 4, 156, 124], [100, 68, 118, 92], [20, 40, 140, 80], [8, 8, 24, 24], [66, 8, 84, 112]]
    gts, metas = [objects(box, labels=[i]) for i, box in enumerate(boxes)], [meta()] * len(boxes)
    ours, theirs = heads_alike(eta=0.0)
    maps = features(batch=len(gts))
    outs = ours(maps)
    steps = fsaf_steps(theirs, theirs(maps), gts, metas)
    logits, boxes = ours._rows_of_images(*outs[:2])
    grids = [tuple(x.shape[-2:]) for x in outs[0]]
    targets = ours.get_targets(logits, boxes, torch.zeros(len(gts), 5), gts, grids)
    expected_levels = torch.stack(steps["levels"]).argmin(0)
    assert torch.cat([image.levels for image in targets]).tolist() == expected_levels.tolist()
    sizes = [h * w for h, w in grids]
    kept = torch.cat([x.view(len(gts), -1) for x in steps["kept"]], 1)
    assert torch.equal(torch.stack([image.gt_index for image in targets]) >= 0, kept)
    positives = kept.sum()
    assert positives > 5

    anchors = torch.cat(theirs.get_anchors(grids, metas[:1], device="cpu")[0][0])
    cores = torch.cat([scale_boxes(gt.bboxes, 0.2) for gt in gts])
    touched = bbox_overlaps(anchors, cores, mode="iof").T > 0.01  # [B, A] share of the cell
    unused = (touched & ~kept).nonzero()
    assert len(unused) > 8
    p = torch.stack([logits[b, a, gts[b].labels[0]] for b, a in unused.tolist()]).sigmoid()
    as_negatives = (-0.75 * p**2 * (1 - p).log()).sum()
    losses = ours.loss_by_feat(*outs, gts, metas)
    theirs_cls, theirs_bbox = (sum(steps["losses"][name]) for name in ("loss_cls", "loss_bbox"))
    torch.testing.assert_close(losses["loss_bbox"], theirs_bbox, rtol=1e-5, atol=0)
    torch.testing.assert_close(losses["loss_cls"], theirs_cls + as_negatives / positives, rtol=1e-5, atol=0)
    assert as_negatives / positives > 1e-3 * theirs_cls
    assert sum(sizes) == kept.shape[1]


# The loss


def slow_losses(head, outs, gts) -> dict[str, float]:
    """The loss over single points, in Python's numbers; its constants are the configuration's."""
    weighed = {"loss_cls": 0.0, "loss_bbox": 0.0}
    total, entropies = 0.0, []
    selection = iter(head.selection(outs[2], [gt.bboxes for gt in gts]).tolist())
    for b, gt in enumerate(gts):
        boxes_of = gt.bboxes.tolist()
        logits_of_objects = [next(selection) for _ in boxes_of]
        exponents = [[math.exp(x) for x in values] for values in logits_of_objects]
        probabilities = [[x / sum(values) for x in values] for values in exponents]
        maps = [[level[b].tolist() for level in kind] for kind in outs[:2]]

        def focal(level, y, x, label=None, maps=maps):
            loss = 0.0
            for c, channel in enumerate(maps[0][level]):
                p = 1 / (1 + math.exp(-channel[y][x]))
                positive = c == label
                loss -= 0.25 * (1 - p) ** 2 * math.log(p) if positive else 0.75 * p**2 * math.log(1 - p)
            return loss

        def iou_loss(level, y, x, box, maps=maps):
            unit, px, py = 4 * STRIDES[level], (x + 0.5) * STRIDES[level], (y + 0.5) * STRIDES[level]
            left, top, right, bottom = (maps[1][level][side][y][x] * unit for side in range(4))
            w = min(px + right, box[2]) - max(px - left, box[0])
            h = min(py + bottom, box[3]) - max(py - top, box[1])
            overlap = max(w, 0) * max(h, 0)
            union = (left + right) * (top + bottom) + (box[2] - box[0]) * (box[3] - box[1]) - overlap
            return -math.log(max(overlap / union, 1e-6))

        def cells(level, box, maps=maps):
            stride, found = STRIDES[level], []
            height, width = len(maps[0][level][0]), len(maps[0][level][0][0])
            cx, cy = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
            dx, dy = 0.1 * (box[2] - box[0]), 0.1 * (box[3] - box[1])
            for y in range(math.floor((cy - dy) / stride), math.ceil((cy + dy) / stride)):
                for x in range(math.floor((cx - dx) / stride), math.ceil((cx + dx) / stride)):
                    px, py = (x + 0.5) * stride, (y + 0.5) * stride
                    sides = px - box[0], py - box[1], box[2] - px, box[3] - py
                    if min(sides) > 0 and 0 <= x < width and 0 <= y < height:
                        ratio_x = min(sides[0], sides[2]) / max(sides[0], sides[2])
                        ratio_y = min(sides[1], sides[3]) / max(sides[1], sides[3])
                        found.append((y, x, ratio_x * ratio_y))
            return found

        used = []
        for i, (box, label) in enumerate(zip(boxes_of, gt.labels.tolist(), strict=True)):
            means = []
            for level in range(5):
                terms = [
                    focal(level, y, x, label) + iou_loss(level, y, x, box) for y, x, _ in cells(level, box)
                ]
                means.append(sum(terms) / len(terms) if terms else math.inf)
            best = min(range(5), key=lambda level, means=means: means[level])
            entropies.append(-math.log(probabilities[i][best]))
            if head.progress < 0.5:
                used.append({best: 1.0})
            else:
                largest = sorted(range(5), key=lambda level, i=i: -probabilities[i][level])[:3]
                used.append({level: probabilities[i][level] for level in largest})
        by_area = sorted(
            range(len(boxes_of)),
            key=lambda i, boxes_of=boxes_of: (
                (boxes_of[i][2] - boxes_of[i][0]) * (boxes_of[i][3] - boxes_of[i][1])
            ),
        )
        for level in range(5):
            owner = {}
            for i in by_area:
                if level in used[i]:
                    for y, x, weight in cells(level, boxes_of[i]):
                        owner.setdefault((y, x), (i, weight * used[i][level]))
            for y in range(len(maps[0][level][0])):
                for x in range(len(maps[0][level][0][0])):
                    if (y, x) not in owner:
                        weighed["loss_cls"] += focal(level, y, x)
                        continue
                    i, weight = owner[y, x]
                    total += weight
                    weighed["loss_cls"] += weight * focal(level, y, x, gt.labels[i].item())
                    weighed["loss_bbox"] += weight * iou_loss(level, y, x, boxes_of[i])
    found = {name: value / max(total, 1) for name, value in weighed.items()}
    return found | {"loss_selection": 0.1 * sum(entropies) / max(len(entropies), 1)}


@pytest.mark.parametrize(
    "gts", [GTS, [objects(), OVERLAPPING], [objects(), objects()]], ids=["several", "one empty", "empty"]
)
def test_losses_are_the_slow_ones(head, gts):
    head.double()
    outs = head(tuple(level.double() for level in features()))
    found = head.loss_by_feat(*outs, gts, METAS)
    for gt in gts:
        gt.bboxes = gt.bboxes.double()
    expected = slow_losses(head, outs, gts)
    for gt in gts:
        gt.bboxes = gt.bboxes.float()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value, rel=1e-5), name
    assert (found["loss_bbox"] > 0) == any(len(gt) for gt in gts)


def test_weights_of_positives_are_those_of_the_loss(head):
    seen = {}

    def record(module, arguments, options):
        seen.update(labels=arguments[1].view(2, -1), weights=arguments[2].view(2, -1))
        seen.update(divisor=options["avg_factor"])

    head.loss_cls.register_forward_pre_hook(record, with_kwargs=True)
    outs = head(features())
    head.loss_by_feat(*outs, GTS, METAS)
    found = head.positives_by_feat(*outs, batch_gt_instances=GTS, batch_img_metas=METAS)
    for b, (positives, gt) in enumerate(zip(found, GTS, strict=True)):
        assert torch.equal((seen["labels"][b] < len(CLASSES)).nonzero().squeeze(1), positives.anchors)
        assert torch.equal(seen["labels"][b][positives.anchors], gt.labels[positives.objects])
        assert torch.equal(seen["weights"][b][positives.anchors], positives.weights)
        negative = seen["labels"][b] == len(CLASSES)
        assert (seen["weights"][b][negative] == 1).all()
        assert len(positives.anchors) > 2
    total = sum(positives.weights.sum() for positives in found).item()
    assert seen["divisor"].item() == pytest.approx(max(total, 1))
    assert means(of_images(head, outs, GTS, METAS))["objects"] == 6


def test_objects_use_one_level_and_then_three():
    """A large object alone, with points on every level."""
    gt = objects([4, 4, 156, 124])
    found = {}
    for stage in STAGES:
        head = at(stage)
        outs = head(features(batch=1))
        sizes = torch.tensor([maps[0, 0].numel() for maps in outs[0]])
        (positives,) = head.positives_by_feat(*outs, batch_gt_instances=[gt], batch_img_metas=[meta()])
        levels = torch.bucketize(positives.anchors, sizes.cumsum(0), right=True).unique().tolist()
        probabilities = head.selection(outs[2], [gt.bboxes]).softmax(1)[0]
        found[stage] = levels, probabilities.topk(3).indices.sort().values.tolist()
    assert len(found[0.0][0]) == 1
    assert found[0.5][0] == found[0.5][1]


# The selection of levels


def test_the_networks_input_is_the_object_on_every_level():
    torch.manual_seed(0)
    network = LevelSelection(2, 3, [8, 16])
    maps = [torch.randn(2, 2, 8, 8), torch.randn(2, 2, 4, 4)]
    boxes = [torch.tensor([[4.0, 4, 40, 30]]), torch.tensor([[0.0, 8, 64, 20], [10, 10, 12, 12]])]
    rois = torch.tensor([[0, 4.0, 4, 40, 30], [1, 0, 8, 64, 20], [1, 10, 10, 12, 12]])
    fine = roi_align(maps[0], rois, (7, 7), 1 / 8, 2, True)
    coarse = roi_align(maps[1], rois, (7, 7), 1 / 16, 2, True)
    x = torch.cat([fine, coarse], 1)
    for conv, side in zip(network.convs, (5, 3, 1), strict=True):
        x = torch.nn.functional.conv2d(x, conv.weight, conv.bias).relu()
        assert x.shape == (3, 3, side, side)
    torch.testing.assert_close(network(maps, boxes), network.fc(x[:, :, 0, 0]))


def test_the_network_learns_the_level_of_least_loss():
    """From nothing but its loss, on features of which none changes."""
    head = at(0.0)
    gts = [objects(*(box for gt in ONE_EACH for box in gt.bboxes.tolist()), labels=[0] * 6), OVERLAPPING]
    with torch.no_grad():
        outs = head(features())
        logits, boxes = head._rows_of_images(*outs[:2])
        selection = head.selection(outs[2], [gt.bboxes for gt in gts])
        grids = [tuple(x.shape[-2:]) for x in outs[0]]
        levels = torch.cat([t.levels for t in head.get_targets(logits, boxes, selection, gts, grids)])
    assert len(levels.unique()) > 2
    assert (selection.argmax(1) != levels).sum() > 2
    optimiser = torch.optim.Adam(head.selection.parameters(), 0.01)
    for _ in range(100):
        optimiser.zero_grad()
        head.loss_by_feat(*outs, gts, METAS)["loss_selection"].backward()
        optimiser.step()
    assert torch.equal(head.selection(outs[2], [gt.bboxes for gt in gts]).argmax(1), levels)


def test_only_the_cross_entropy_trains_the_network(head):
    """It reaches the pyramid; the weights of the other losses carry no gradient."""
    maps = tuple(level.requires_grad_() for level in features())
    outs = head(maps)
    leaves = [level.detach().requires_grad_() for level in outs[2]]
    losses = head.loss_by_feat(*outs[:2], leaves, GTS, METAS)
    parameters = list(head.selection.parameters())
    both = losses["loss_cls"] + losses["loss_bbox"]
    for gradient in torch.autograd.grad(both, parameters + leaves, retain_graph=True, allow_unused=True):
        assert gradient is None or not gradient.any()
    for gradient in torch.autograd.grad(losses["loss_selection"], parameters + leaves):
        assert gradient.isfinite().all()
        assert gradient.any()


def test_weight_of_the_cross_entropy():
    """Lambda is .1, and five levels of equal weight have a cross entropy of log 5."""
    head = at(0.0)
    torch.nn.init.zeros_(head.selection.fc.weight)
    torch.nn.init.zeros_(head.selection.fc.bias)
    losses = head.loss_by_feat(*head(features()), GTS, METAS)
    assert losses["loss_selection"].item() == pytest.approx(0.1 * math.log(5))


# What may happen


@pytest.mark.parametrize("case", hard_cases())
def test_positives_of_hard_cases(case, head):
    gt = hard_cases()[case]
    outs = head(features())
    positives, _ = head.positives_by_feat(*outs, batch_gt_instances=[gt, OVERLAPPING], batch_img_metas=METAS)
    assert positives.anchors.unique().numel() == len(positives.anchors)
    assert (positives.weights > 0).all()
    assert (positives.weights <= 1).all()
    if case in ("empty", "tiny", "without area", "outside"):
        assert len(positives.anchors) == 0
    elif case == "30 alike":
        assert len(positives.objects.unique()) <= 30
    else:
        assert len(positives.anchors) > 0


def test_an_object_without_points_trains_no_level():
    """No centre of a cell is in it. It would have a level otherwise, by chance."""
    head = at(0.0)
    outs = head(features())
    tiny = objects([9.3, 9.3, 10.1, 10.1])
    expected = head.loss_by_feat(*outs, [objects(), OVERLAPPING], METAS)
    found = head.loss_by_feat(*outs, [tiny, OVERLAPPING], METAS)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=name)


def test_testing_does_not_need_the_progress():
    """Scores are the classes'; points are the centres of cells."""
    head = narrow_head("sapd.py").eval()
    with torch.no_grad():
        outs = head(features())
    found = head.predict_by_feat(*outs, batch_img_metas=METAS)
    assert len(found[0]) > 10
    level = head.dense_by_feat(*outs, batch_img_metas=METAS, clip=False)[0][1]
    torch.testing.assert_close(level.scores, outs[0][1][0].sigmoid().flatten(1).T)
    assert level.points[:2].tolist() == [[8, 8], [24, 8]]
    left, top, right, bottom = (outs[1][1][0].flatten(1) * 4 * 16).unbind(0)
    x, y = level.points.unbind(1)
    torch.testing.assert_close(level.boxes, torch.stack([x - left, y - top, x + right, y + bottom], 1))


# The configuration


def test_the_configuration_has_the_papers_head():
    config = configuration("sapd.py")
    head = build_model(config).bbox_head
    head.init_weights()
    assert [(conv.in_channels, conv.out_channels) for conv in head.selection.convs] == [
        (1280, 256),
        (256, 256),
        (256, 256),
    ]
    assert (head.selection.fc.in_features, head.selection.fc.out_features) == (256, 5)
    assert head.units == [32, 64, 128, 256, 512]
    for layer in [*head.cls_convs, *head.reg_convs]:
        assert not layer.with_norm
        assert layer.conv.bias is not None
    for layer in (head.selection.convs[0], head.selection.fc, head.conv_cls, head.conv_reg):
        assert layer.weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert head.conv_reg.bias.tolist() == pytest.approx([0.1] * 4)
    assert head.conv_cls.bias.sigmoid().tolist() == pytest.approx([0.01] * len(CLASSES), rel=1e-4)
    assert head.train_cfg == dict(shrink=0.2, eta=1.0, first_stage=0.5, top_levels=3)
    assert config.model.test_cfg.nms.iou_threshold == 0.5
    assert SEVERAL.labels.max() < len(CLASSES)
