"""IQDet: mixtures, draws, bilinear reading and losses by hand and against a slow restatement."""

import math

import pytest
import torch
import torch.nn.functional as F
from helpers.gradients import whole_batch
from helpers.point_heads import (
    CHANNELS,
    CLASSES,
    GTS,
    OVERLAPPING,
    SEVERAL,
    STRIDES,
    configuration,
    features,
    hard_cases,
    narrow_head,
    objects,
)
from helpers.point_heads import METAS as METAS_WITHOUT_ID
from mmdet.models.losses.focal_loss import py_sigmoid_focal_loss
from mmdet.structures.bbox import distance2bbox
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from scipy.stats import chisquare, kstest
from torchvision.ops import box_iou, generalized_box_iou_loss, roi_align

from tood.engine.config import build_model
from tood.engine.replicas import batch_gradient
from tood.models.baselines import iqdet
from tood.models.baselines.iqdet import soft_focal_loss
from tood.models.baselines.iqdet_quality import (
    Mixture,
    QualityEncoder,
    log_quality_at,
    mixture_of,
    offsets_in_boxes,
    quality_loss,
)
from tood.models.baselines.iqdet_sampling import (
    CandidatePairs,
    Pyramid,
    bilinear_cells,
    candidate_pairs,
    draws,
    read,
    sample,
    touching,
)
from tood.models.common.positives import means, of_images

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
METAS = [meta | {"img_id": number} for number, meta in enumerate(METAS_WITHOUT_ID, 7)]
PROGRESS = 0.25
SAMPLES = 12


@pytest.fixture(autouse=True, scope="module")
def mmdet_scope():
    init_default_scope("mmdet")


@pytest.fixture
def head():
    found = narrow_head("iqdet.py", quality_channels=24)
    found.set_progress(3, PROGRESS)
    return found


def pyramid(*grids: tuple[int, int], strides=STRIDES) -> Pyramid:
    """Points at multiples of the strides, row by row, in float64."""
    points, levels = [], []
    for level, ((height, width), stride) in enumerate(zip(grids, strides, strict=False)):
        points += [(x * stride, y * stride) for y in range(height) for x in range(width)]
        levels += [level] * (height * width)
    return Pyramid(
        torch.tensor(points, dtype=torch.float64),
        torch.tensor(levels),
        torch.tensor(strides[: len(grids)], dtype=torch.float64),
        torch.tensor(grids),
    )


# The mixture


def test_value_of_a_mixture_by_hand():
    """At (.5, -.5) the first Gaussian is one deviation off in x and two in y, the second at its mean."""
    mixture = Mixture(
        torch.tensor([[0.25, 0.5], [0.5, -0.5]]),
        torch.tensor([[0.25, 0.5], [0.1, 0.1]]),
        torch.tensor([0.3, 0.6]).log(),
    )
    found = log_quality_at(mixture, torch.tensor([[0.5, -0.5], [0.25, 0.5]])).exp()
    second_at_first = math.exp(-(2.5**2 + 10**2) / 2)
    assert found.tolist() == pytest.approx([0.3 * math.exp(-2.5) + 0.6, 0.3 + 0.6 * second_at_first])


def test_outputs_become_a_mixture():
    """Of two Gaussians: (x, y) of both means, then of both deviations, then the weights."""
    outputs = torch.tensor([0.0, 20, -20, 0.5, 0, 20, -20, 1, 0, math.log(3)])
    means, deviations, log_weights = mixture_of(outputs)
    assert means.flatten().tolist() == pytest.approx([0, 1, -1, math.tanh(0.5)])
    expected = [math.log(2) + 0.05, 20.05, 0.05, math.log(1 + math.e) + 0.05]
    assert deviations.flatten().tolist() == pytest.approx(expected)
    assert log_weights.exp().tolist() == pytest.approx([0.2, 0.6])  # and .2 for none
    assert means.shape == deviations.shape == (2, 2)
    assert mixture_of(torch.zeros(3, 5, 10)).log_weights.shape == (3, 5, 2)


def test_one_gaussian_without_any_output_peaks_at_the_centre():
    places = torch.linspace(-1, 1, 21)
    offsets = torch.cartesian_prod(places, places)
    found = log_quality_at(mixture_of(torch.zeros(5)), offsets).view(21, 21).exp()
    assert found.argmax() == 10 * 21 + 10
    assert found[10, 10].item() == pytest.approx(0.5)
    for other in (found.T, found.flip(0), found.flip(1)):
        torch.testing.assert_close(found, other)
    assert (found[10, 10:].diff() < 0).all()


def test_values_are_in_zero_to_one():
    outputs = torch.randn(50, 20, generator=torch.Generator().manual_seed(0)) * 5
    found = log_quality_at(mixture_of(outputs[:, None]), torch.rand(50, 30, 2) * 2 - 1).exp()
    assert found.min() >= 0
    assert found.max() <= 1


def test_offsets_of_positions():
    boxes = torch.tensor([[10.0, 20, 50, 30]] * 4 + [[8.0, 8, 8, 8.5]])
    positions = torch.tensor([[30.0, 25], [50, 30], [10, 27.5], [60, 25], [8, 8.5]])
    expected = [[0, 0], [1, 1], [-1, 0.5], [1.5, 0], [0, 0.5]]  # the last side counts as one pixel
    assert offsets_in_boxes(positions, boxes).tolist() == expected


def test_quality_loss_by_hand():
    """The second object has two points, the third none."""
    quality, ious = torch.tensor([0.5, 0.2, 0.9]), torch.tensor([0.3, 0.6, 1.0])
    found = quality_loss(quality.log(), ious, torch.tensor([0, 1, 1]), 3)
    second, third = -(0.6 * math.log(0.2) + 0.4 * math.log(0.8)), -math.log(0.9)
    assert found.tolist() == pytest.approx([math.log(2), (second + third) / 2, 0])


def test_quality_loss_is_least_at_the_iou_and_finite_at_the_ends():
    values = torch.linspace(0.01, 1, 100)
    found = quality_loss(values.log(), torch.full((100,), 0.3), torch.arange(100), 100)
    assert found.argmin() == 29
    assert found.isfinite().all()


def test_a_mixture_that_is_low_can_rise_again():
    """The weights have a gradient where the value itself is 0 in float32, and where it is 1."""
    low = torch.tensor([[0.0] * 8 + [-200.0, -200]], requires_grad=True)
    high = torch.tensor([[0.0] * 8 + [12.0, 12]], requires_grad=True)
    centre = torch.zeros(1, 2)
    for outputs, iou in ((low, 0.5), (high, 0.5)):
        log_quality = log_quality_at(mixture_of(outputs), centre)
        quality_loss(log_quality, torch.tensor([iou]), torch.tensor([0]), 1).sum().backward()
    assert log_quality_at(mixture_of(low), centre).exp() == 0
    assert low.grad[0, 8:].tolist() == pytest.approx([-0.25, -0.25], rel=1e-4)  # half of the IoU to each
    assert high.grad[0, 8:].tolist() == pytest.approx([0.25, 0.25], rel=1e-2)


# The candidates


def test_candidates_are_the_points_inside_on_all_levels():
    points = pyramid((4, 5), (2, 3), (1, 2))  # strides 8, 16, 32
    found = candidate_pairs(points.points, torch.tensor([[7.0, -1, 17, 9], [15, 15, 17, 17]]).double())
    owners = list(zip(found.objects.tolist(), points.points[found.points].tolist(), strict=True))
    assert owners == [
        *[(0, [x, y]) for y in (0, 8) for x in (8, 16)],  # of stride 8
        (0, [16, 0]),  # of stride 16
        (1, [16, 16]),
        (1, [16, 16]),
    ]
    assert points.levels[found.points].tolist() == [0] * 4 + [1, 0, 1]


def test_an_object_without_points_has_the_nearest():
    """(16, 16) is a point of two levels: that of the finer one. On a side is not inside."""
    points = pyramid((4, 5), (2, 3), (1, 2))
    boxes = torch.tensor([[17.0, 17, 19, 20], [9, 9, 11, 10], [8, 8.5, 8.005, 15]]).double()
    found = candidate_pairs(points.points, boxes)
    assert found.objects.tolist() == [0, 1, 2]
    assert points.points[found.points].tolist() == [[16, 16], [8, 8], [8, 8]]
    assert points.levels[found.points].tolist() == [0, 0, 0]


def test_an_object_outside_of_the_map_has_nothing():
    points = pyramid((4, 5), (2, 3))
    boxes = torch.tensor([[-50.0, -40, -10, -5], [33, 10, 39, 15], [-9, 9, -1, 14], [90, 9, 99, 14]]).double()
    pairs = candidate_pairs(points.points, boxes)
    assert pairs.objects.tolist() == [0, 1, 2, 3]
    # The cells of the outermost points reach half a stride further.
    assert touching(pairs, points, boxes).objects.tolist() == [1, 2]


# The draws


def test_draws_depend_on_image_and_progress_alone():
    first = draws(7, 0.25, 3, SAMPLES)
    torch.manual_seed(5)
    torch.rand(3)
    state = torch.get_rng_state()
    assert torch.equal(draws(7, 0.25, 3, SAMPLES), first)
    assert torch.equal(torch.get_rng_state(), state)  # nor do others depend on them
    assert first.shape == (3, SAMPLES, 3)
    assert first.dtype == torch.float64
    assert first.min() >= 0
    assert first.max() < 1
    for other in (draws(8, 0.25, 3, SAMPLES), draws(7, 0.26, 3, SAMPLES), draws("7", 0.25, 3, SAMPLES)):
        assert not (other == first).any()


def test_draws_are_spread_evenly():
    """Over images and over progress, as one training uses them."""
    of_images = torch.stack([draws(image, 0.5, 1, 4) for image in range(2000)])
    over_time = torch.stack([draws(1, step / 2000, 1, 4) for step in range(2000)])
    for numbers in (of_images, over_time):
        for position in (0, 3):
            for axis in range(3):
                assert kstest(numbers[:, 0, position, axis].numpy(), "uniform").pvalue > 1e-3


def test_points_are_drawn_in_proportion_to_their_quality():
    """Two objects on two levels; 60,000 draws against the multinomial expectation."""
    points = pyramid((4, 5), (2, 3))
    boxes = torch.tensor([[7.0, 7, 25, 25], [-1, -1, 17, 9]]).double()
    pairs = candidate_pairs(points.points, boxes)
    sizes = torch.bincount(pairs.objects).tolist()
    assert sizes == [10, 8]  # 9 + 1, 6 + 2
    quality = torch.rand(18, generator=torch.Generator().manual_seed(3)).double() ** 2
    found = sample(pairs, quality, points, boxes, draws(0, 0.0, 2, 60_000))
    assert found.objects.bincount().tolist() == [60_000, 60_000]
    for owner in range(2):
        mine, of_pairs = found.objects == owner, pairs.objects == owner
        # The point of a sample is the nearest of its level.
        at = points.points[pairs.points[of_pairs]]
        near = (found.positions[mine][:, None] - at).abs().amax(-1)
        near[found.levels[mine][:, None] != points.levels[pairs.points[of_pairs]]] = math.inf
        counts = near.argmin(1).bincount(minlength=sizes[owner])
        expected = quality[of_pairs] / quality[of_pairs].sum() * 60_000
        assert chisquare(counts.numpy(), expected.numpy()).pvalue > 0.01
        # What the test would not see if it had no power: draws that are even
        assert chisquare(counts.numpy()).pvalue < 1e-9


def test_positions_are_even_in_the_part_of_the_cell_in_the_box():
    """The cell of (8, 8) is [4, 12] on both axes, and the box has [6, 12] x [4, 9] of it."""
    points = pyramid((4, 5))
    box = torch.tensor([[6.0, 3, 20, 9]]).double()
    pairs = CandidatePairs(torch.tensor([0]), torch.tensor([6]))
    assert points.points[6].tolist() == [8, 8]
    found = sample(pairs, torch.ones(1), points, box, draws(0, 0.0, 1, 5000)).positions
    assert kstest(found[:, 0].numpy(), "uniform", (6, 6)).pvalue > 0.01
    assert kstest(found[:, 1].numpy(), "uniform", (4, 5)).pvalue > 0.01
    assert abs(found.T.corrcoef()[0, 1]) < 0.05


@pytest.mark.parametrize("case", hard_cases())
def test_positions_stay_in_the_box(case):
    gt_boxes = hard_cases()[case].bboxes.double()
    points = pyramid((16, 20), (8, 10), (4, 5), (2, 3), (1, 2))
    pairs = touching(candidate_pairs(points.points, gt_boxes), points, gt_boxes)
    quality = torch.rand(len(pairs.objects), generator=torch.Generator().manual_seed(0))
    found = sample(pairs, quality, points, gt_boxes, draws(0, 0.5, len(gt_boxes), SAMPLES))
    mine = gt_boxes[found.objects]
    assert (found.positions >= mine[:, :2]).all()
    assert (found.positions <= mine[:, 2:]).all()
    number = found.objects.bincount(minlength=len(gt_boxes))
    assert ((number == SAMPLES) | (number == 0)).all()
    assert (number > 0).all() or case == "outside"
    assert number.sum() > 0 or case in ("empty", "outside")


def test_an_object_of_no_quality_draws_evenly():
    points = pyramid((4, 5))
    boxes = torch.tensor([[-1.0, -1, 33, 25], [-1, -1, 9, 9]]).double()
    pairs = candidate_pairs(points.points, boxes)
    quality = (pairs.objects == 1).float()
    found = sample(pairs, quality, points, boxes, draws(0, 0.0, 2, 4000))
    places = (found.positions[found.objects == 0] / 8).round()
    counts = (places[:, 1] * 5 + places[:, 0]).long().bincount(minlength=20)
    assert chisquare(counts.numpy()).pvalue > 0.01


def test_the_last_point_can_be_drawn_and_none_beyond():
    points = pyramid((4, 5))
    boxes = torch.tensor([[-1.0, -1, 9, 1], [7, 7, 17, 9]]).double()
    pairs = candidate_pairs(points.points, boxes)
    assert pairs.points.tolist() == [0, 1, 6, 7]
    numbers = torch.zeros(2, 2, 3, dtype=torch.float64)
    numbers[:, 1] = 1 - 2**-53
    found = sample(pairs, torch.tensor([0.3, 0.1, 0.7, 0.2]), points, boxes, numbers)
    assert found.positions[:, 0].tolist() == pytest.approx([-1, 9, 7, 17])


# The reading


def test_bilinear_cells_by_hand():
    """Strides 8 and 16; the second level's rows begin after 20 points and have three each."""
    points = pyramid((4, 5), (2, 3))
    positions = torch.tensor([[10.0, 22], [10, 12], [8, 8], [-5, 3], [100, 100], [36, 16]]).double()
    levels = torch.tensor([0, 1, 0, 0, 0, 1])
    cells, weights = bilinear_cells(positions, levels, points)
    # (1.25, 2.75); (.625, .75); (1, 1); (0, .375); (4, 3); (2, 1)
    expected = [
        {11: 0.25 * 0.75, 12: 0.25 * 0.25, 16: 0.75 * 0.75, 17: 0.75 * 0.25},
        {20: 0.25 * 0.375, 21: 0.25 * 0.625, 23: 0.75 * 0.375, 24: 0.75 * 0.625},
        {6: 1},
        {0: 0.625, 5: 0.375},
        {19: 1},
        {25: 1},
    ]
    for cell, weight, by_hand in zip(cells.tolist(), weights.tolist(), expected, strict=True):
        found = {}
        for c, w in zip(cell, weight, strict=True):
            if w:
                found[c] = found.get(c, 0) + w
        assert found == pytest.approx(by_hand)


@pytest.mark.parametrize("grid", [(6, 9), (1, 2), (2, 1), (1, 1)])
def test_reading_is_torchs_grid_sample(grid):
    generator = torch.Generator().manual_seed(0)
    before = pyramid((3, 3), grid, strides=(8, 16))
    maps = torch.randn(1, 4, *grid, generator=generator, dtype=torch.float64, requires_grad=True)
    height, width = grid
    positions = (torch.rand(40, 2, generator=generator).double() * 1.4 - 0.2) * torch.tensor([width, height])
    positions *= 16
    rows = torch.cat([torch.full((9, 4), math.nan, dtype=torch.float64), maps[0].flatten(1).T])
    found = read(rows, *bilinear_cells(positions, torch.ones(40).long(), before))
    # Without aligned corners the first point is at half a cell, and a grid of one point has a size.
    places = (2 * positions / 16 + 1) / torch.tensor([width, height]) - 1
    expected = F.grid_sample(maps, places[None, None], padding_mode="border", align_corners=False)[0, :, 0].T
    torch.testing.assert_close(found, expected)
    probe = torch.randn(found.shape, generator=generator, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((found * probe).sum(), maps)
    (other,) = torch.autograd.grad((expected * probe).sum(), maps)
    torch.testing.assert_close(gradient, other)


def test_the_gradient_of_a_reading_reaches_four_points():
    rows = torch.zeros(20, 3, dtype=torch.float64, requires_grad=True)
    position = torch.tensor([[10.0, 22]]).double()
    found = read(rows, *bilinear_cells(position, torch.zeros(1).long(), pyramid((4, 5))))
    found.sum().backward()
    assert rows.grad.any(1).nonzero().flatten().tolist() == [11, 12, 16, 17]
    assert rows.grad[[11, 12, 16, 17], 0].tolist() == pytest.approx([0.1875, 0.0625, 0.5625, 0.1875])


def test_a_box_read_is_that_of_the_distances_read_at_the_position():
    generator = torch.Generator().manual_seed(0)
    points = pyramid((4, 5), (2, 3))
    distances = torch.rand(26, 4, generator=generator).double() * 30
    positions = torch.rand(30, 2, generator=generator).double() * torch.tensor([32, 16])
    levels = torch.arange(30) % 2
    where = bilinear_cells(positions, levels, points)
    found = read(distance2bbox(points.points, distances), *where)
    torch.testing.assert_close(found, distance2bbox(positions, read(distances, *where)))


# The losses


def test_soft_focal_loss_of_hard_labels_is_the_plain_one():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(40, 5, generator=generator).double() * 3
    targets = F.one_hot(torch.randint(0, 6, (40,), generator=generator), 6)[:, :5].double()
    expected = py_sigmoid_focal_loss(logits, targets, gamma=2.0, alpha=0.25, reduction="none")
    torch.testing.assert_close(soft_focal_loss(logits, targets, 2.0, 0.25), expected)


def test_soft_focal_loss_by_hand():
    logit, target = math.log(0.2 / 0.8), 0.6
    entropy = -(0.6 * math.log(0.2) + 0.4 * math.log(0.8))
    found = soft_focal_loss(torch.tensor([[logit]]), torch.tensor([[target]]), 2.0, 0.25)
    assert found.item() == pytest.approx((0.25 * 0.6 + 0.75 * 0.4) * 0.4**2 * entropy)
    assert soft_focal_loss(torch.tensor([[logit]]), torch.tensor([[0.2]]), 2.0, 0.25).item() < 1e-12


def trained_like(seed: int) -> tuple[list[torch.Tensor], ...]:
    """Maps of a head that has learnt something, with features, in float64."""
    generator = torch.Generator().manual_seed(seed)
    grids = [(16, 20), (8, 10), (4, 5), (2, 3), (1, 2)]

    def maps(channels: int) -> list[torch.Tensor]:
        return [torch.rand(2, channels, *grid, generator=generator, dtype=torch.float64) for grid in grids]

    logits = [level * 5 - 4 for level in maps(len(CLASSES))]
    distances = [level * 3 + 0.5 for level in maps(4)]
    ious = [level * 4 - 2 for level in maps(1)]
    return logits, distances, ious, [level * 2 - 1 for level in maps(CHANNELS)]


def slow_draws(points, mixtures, box, numbers) -> tuple[list[int], list[tuple[int, float, float, float]]]:
    """An object's points, and its samples: level, x, y and quality. In Python's numbers."""
    x1, y1, x2, y2 = box

    def quality(level: int, x: float, y: float) -> float:
        dx = (2 * x - x1 - x2) / max(x2 - x1, 1)
        dy = (2 * y - y1 - y2) / max(y2 - y1, 1)
        outputs, total = mixtures[level], 0.0
        exponents = [math.exp(value) for value in outputs[8:]]
        for k in range(2):
            mx, my = math.tanh(outputs[2 * k]), math.tanh(outputs[2 * k + 1])
            sx, sy = (math.log1p(math.exp(outputs[4 + 2 * k + axis])) + 0.05 for axis in (0, 1))
            gaussian = math.exp(-(((dx - mx) / sx) ** 2 + ((dy - my) / sy) ** 2) / 2)
            total += exponents[k] / (1 + sum(exponents)) * gaussian
        return total

    mine = [
        (index, level, x, y, quality(level, x, y))
        for index, (level, x, y) in enumerate(points)
        if min(x - x1, y - y1, x2 - x, y2 - y) > 0.01
    ]
    samples = []
    for to_point, to_x, to_y in numbers:
        left = to_point * sum(entry[-1] for entry in mine)
        for _, level, x, y, value in mine:  # noqa: B007  # the point that the loop stops at
            left -= value
            if left < 0:
                break
        half = STRIDES[level] / 2
        low_x, low_y, high_x, high_y = (
            max(x - half, x1),
            max(y - half, y1),
            min(x + half, x2),
            min(y + half, y2),
        )
        x, y = low_x + to_x * (high_x - low_x), low_y + to_y * (high_y - low_y)
        samples.append((level, x, y, quality(level, x, y)))
    return [index for index, *_ in mine], samples


def slow_losses(head, outs, gts) -> dict[str, torch.Tensor]:
    """The losses over single samples; the constants are the configuration's."""
    found = dict.fromkeys(("loss_cls", "loss_bbox", "loss_iou", "loss_quality"), 0.0)
    number, encoded = 0, 0
    outputs = iter(head.encoder(outs[3], [gt.bboxes for gt in gts]))
    points = []
    for level, maps in enumerate(outs[0]):
        height, width = maps.shape[-2:]
        points += [
            (level, x * STRIDES[level], y * STRIDES[level]) for y in range(height) for x in range(width)
        ]
    for b, gt in enumerate(gts):
        numbers = draws(METAS[b]["img_id"], PROGRESS, len(gt), SAMPLES).tolist()
        covered = set()
        for i, (box, label) in enumerate(zip(gt.bboxes, gt.labels.tolist(), strict=True)):
            # The samples are in Python's numbers; the value of a point again as a tensor, for its gradient.
            output = next(outputs)
            mine, samples = slow_draws(points, output.tolist(), box.tolist(), numbers[i])
            encoded += 1
            terms = []
            for index in mine:
                level, x, y = points[index]
                covered.add(index)
                predicted = decoded(outs, b, level, x, y)
                iou = box_iou(predicted[None], box[None]).detach().squeeze()
                offset = (2 * torch.tensor([x, y]) - box[:2] - box[2:]) / (box[2:] - box[:2])
                mu = output[level, :4].tanh().view(2, 2)
                sigma = F.softplus(output[level, 4:8]).view(2, 2) + 0.05
                gaussians = torch.exp(-0.5 * (((offset - mu) / sigma) ** 2).sum(1))
                weights = output[level, 8:].exp() / (1 + output[level, 8:].exp().sum())
                q = (weights * gaussians).sum()
                terms.append(-(iou * q.log() + (1 - iou) * (1 - q).log()))
            found["loss_quality"] += sum(terms) / len(terms)
            for level, x, y, quality in samples:
                number += 1
                logits = at(outs[0], b, level, x, y)
                targets = torch.zeros_like(logits)
                targets[label] = quality
                p = logits.sigmoid()
                entropy = targets * p.log() + (1 - targets) * (1 - p).log()
                balance = 0.25 * targets + 0.75 * (1 - targets)
                found["loss_cls"] -= (balance * (targets - p) ** 2 * entropy).sum()
                predicted = decoded(outs, b, level, x, y)
                found["loss_bbox"] += 2 * generalized_box_iou_loss(predicted, box)
                iou = box_iou(predicted[None], box[None]).detach().squeeze()
                p = at(outs[2], b, level, x, y).sigmoid()[0]
                found["loss_iou"] -= 0.5 * (iou * p.log() + (1 - iou) * (1 - p).log())
        for index, (level, x, y) in enumerate(points):
            if index not in covered:
                p = at(outs[0], b, level, x, y).sigmoid()
                found["loss_cls"] -= (0.75 * p**2 * (1 - p).log()).sum()
    for name in ("loss_cls", "loss_bbox", "loss_iou"):
        found[name] = found[name] / max(number, 1)
    return found | {"loss_quality": found["loss_quality"] / max(encoded, 1)}


def at(maps: list[torch.Tensor], b: int, level: int, x: float, y: float) -> torch.Tensor:
    """[channels] of a map at a position, by torch; a point is in the middle of its cell there."""
    height, width = maps[level].shape[-2:]
    stride = STRIDES[level]
    place = torch.tensor([(2 * x / stride + 1) / width - 1, (2 * y / stride + 1) / height - 1])
    place = place.to(maps[level])[None, None, None]
    found = F.grid_sample(maps[level][b : b + 1], place, padding_mode="border", align_corners=False)
    return found.flatten()


def decoded(outs, b: int, level: int, x: float, y: float) -> torch.Tensor:
    """[4] box predicted at a position; beyond the outermost points it is theirs."""
    height, width = outs[1][level].shape[-2:]
    stride = STRIDES[level]
    x, y = min(max(x, 0), (width - 1) * stride), min(max(y, 0), (height - 1) * stride)
    left, top, right, bottom = at(outs[1], b, level, x, y) * stride
    return torch.stack([x - left, y - top, x + right, y + bottom])


def in_double(gts: list[InstanceData]) -> list[InstanceData]:
    return [InstanceData(bboxes=gt.bboxes.double(), labels=gt.labels) for gt in gts]


@pytest.mark.parametrize("gts", [GTS, [objects(), OVERLAPPING]], ids=["several", "one empty"])
def test_losses_are_the_slow_ones(head, gts):
    head.double()
    gts = in_double(gts)
    outs = tuple([level.requires_grad_() for level in maps] for maps in trained_like(1))
    leaves = [level for maps in outs for level in maps] + list(head.encoder.parameters())
    found = head.loss_by_feat(*outs, gts, METAS)
    expected = slow_losses(head, outs, gts)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        # mmdet makes float32 of the IoU as a target, and adds float32's epsilon to divisors.
        torch.testing.assert_close(
            found[name], value, rtol=1e-5, atol=0, msg=lambda text, name=name: f"{name}: {text}"
        )
    gradients, their_gradients = (
        torch.autograd.grad(sum(losses.values()), leaves, materialize_grads=True)
        for losses in (found, expected)
    )
    assert sum(gradient.any() for gradient in gradients) > 20
    for gradient, other in zip(gradients, their_gradients, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("case", hard_cases())
def test_positives_of_hard_cases(case, head):
    gts = [hard_cases()[case], OVERLAPPING]
    outs = head(features())
    positives, _ = head.positives_by_feat(*outs, batch_gt_instances=gts, batch_img_metas=METAS)
    assert ((positives.weights > 0) & (positives.weights <= 1)).all()
    served = len(positives.objects.unique())
    assert served == (0 if case == "outside" else len(gts[0]))


def test_points_in_objects_that_are_not_drawn_train_no_score(head):
    outs = trained_like(0)
    leaf = outs[0][0].requires_grad_()
    gts = in_double([objects([3, 3, 150, 120], labels=[1]), objects()])
    head.double().loss_by_feat(*outs, gts, METAS)["loss_cls"].backward()
    found, _ = head.positives_by_feat(*outs, batch_gt_instances=gts, batch_img_metas=METAS)
    drawn = torch.zeros(16 * 20, dtype=torch.bool)
    drawn[found.anchors[found.anchors < 320]] = True
    points = pyramid((16, 20)).points
    is_inside = ((points > 3) & (points < torch.tensor([150, 120]))).all(1)
    assert torch.equal(leaf.grad[0].any(0).flatten(), ~is_inside | drawn)
    assert 0 < drawn.sum() < 48
    assert leaf.grad[1].any(0).all()


def test_losses_reach_what_they_should(head):
    """No gradient flows through labels or positions, and none from the encoder's loss into predictions."""
    outs = tuple([level.requires_grad_() for level in maps] for maps in trained_like(1))
    losses = head.double().loss_by_feat(*outs, in_double(GTS), METAS)
    encoder = [*head.encoder.parameters(), *outs[3]]
    rest = sum(loss for name, loss in losses.items() if name != "loss_quality")
    for gradient in torch.autograd.grad(rest, encoder, retain_graph=True, allow_unused=True):
        assert gradient is None
    predictions = [*outs[0], *outs[1], *outs[2]]
    for gradient in torch.autograd.grad(
        losses["loss_quality"], predictions, retain_graph=True, allow_unused=True
    ):
        assert gradient is None
    # No point of the coarsest level is in an object.
    for gradient in torch.autograd.grad(losses["loss_quality"], encoder[:-1]):
        assert gradient.any()


# The samples


def test_weights_of_positives_are_those_of_the_loss(head, monkeypatch):
    reads = []
    monkeypatch.setattr(iqdet, "read", lambda *arguments: reads.append(arguments) or read(*arguments))
    outs = head(features())
    head.loss_by_feat(*outs, GTS, METAS)
    found = head.positives_by_feat(*outs, batch_gt_instances=GTS, batch_img_metas=METAS)
    assert len(reads) == 3  # scores, boxes, IoU
    A = sum(maps[0, 0].numel() for maps in outs[0])
    owners = [(b, i) for b, gt in enumerate(GTS) for i in range(len(gt)) for _ in range(SAMPLES)]
    for rows, cells, weights in reads:
        assert len(rows) == 2 * A
        expected = {}
        for (b, owner), cell, weight in zip(owners, cells.tolist(), weights.tolist(), strict=True):
            for c, w in zip(cell, weight, strict=True):
                key = (b, owner, c - b * A)
                expected[key] = expected.get(key, 0) + w / SAMPLES
        positives = {
            (b, owner, anchor): weight
            for b, image in enumerate(found)
            for anchor, owner, weight in zip(*(part.tolist() for part in image), strict=True)
        }
        assert positives == pytest.approx({key: weight for key, weight in expected.items() if weight > 0})
    for image, gt in zip(found, GTS, strict=True):
        total = torch.zeros(len(gt)).index_add(0, image.objects, image.weights)
        torch.testing.assert_close(total, torch.ones(len(gt)))
    assert means(of_images(head, outs, GTS, METAS))["objects"] == 6


def test_samples_do_not_depend_on_the_batch(head):
    """The second image alone, and first; and again after other random numbers were used."""
    outs = head(features())
    _, second = head.positives_by_feat(*outs, batch_gt_instances=GTS, batch_img_metas=METAS)
    for images in ([1], [1, 0]):
        maps = tuple([level[images] for level in kind] for kind in outs)
        torch.rand(5)
        found, *_ = head.positives_by_feat(
            *maps,
            batch_gt_instances=[GTS[b] for b in images],
            batch_img_metas=[METAS[b] for b in images],
        )
        assert all(torch.equal(a, b) for a, b in zip(found, second, strict=True))
    head.set_progress(3, PROGRESS + 0.01)
    _, later = head.positives_by_feat(*outs, batch_gt_instances=GTS, batch_img_metas=METAS)
    assert set(later.anchors.tolist()) != set(second.anchors.tolist())


def test_testing_and_training_have_the_same_samples(head):
    with torch.no_grad():
        expected = head.positives_by_feat(*head(features()), batch_gt_instances=GTS, batch_img_metas=METAS)
        head.eval()
        found = head.positives_by_feat(*head(features()), batch_gt_instances=GTS, batch_img_metas=METAS)
    for image, other in zip(found, expected, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(image, other, strict=True))


# The encoder


def test_the_encoders_input_is_the_object_on_every_level():
    torch.manual_seed(0)
    encoder = QualityEncoder(2, 6, 2, [8, 16])
    maps = [torch.randn(2, 2, 8, 8), torch.randn(2, 2, 4, 4)]
    boxes = [torch.tensor([[4.0, 4, 40, 30]]), torch.tensor([[0.0, 8, 64, 20], [10, 10, 12, 12]])]
    rois = torch.tensor([[0, 4.0, 4, 40, 30], [1, 0, 8, 64, 20], [1, 10, 10, 12, 12]])
    found = encoder(maps, boxes)
    assert found.shape == (3, 2, 10)
    for level, scale in enumerate((1 / 8, 1 / 16)):
        x = roi_align(maps[level], rois, (7, 7), scale, 2, True).flatten(1)
        for layer in (encoder.layers[0], encoder.layers[2]):
            x = (x @ layer.weight.T + layer.bias).relu()
        torch.testing.assert_close(found[:, level], encoder.output(x))


def test_the_encoder_learns_the_ious(head):
    """From nothing but its loss, on predictions that do not change: their boxes fit on one side of an object.

    The cross entropy is at least the entropy of the IoUs, so what is above that counts.
    """
    gts, points = [objects([8, 8, 152, 120]), objects()], pyramid((16, 20)).points.float()
    outs = tuple([level.float() for level in maps] for maps in trained_like(2))
    distances = torch.stack([points[:, 0] - 8, points[:, 1] - 8, 152 - points[:, 0], 120 - points[:, 1]])
    share = 0.3 + 0.7 * (points[:, 0] > 80)  # of the distances, right and left
    outs[1][0][0] = (distances * share / 8).view(4, 16, 20)
    optimiser = torch.optim.Adam(head.encoder.parameters(), 0.003)
    for _ in range(150):
        optimiser.zero_grad()
        head.loss_by_feat(*outs, gts, METAS)["loss_quality"].backward()
        optimiser.step()
    with torch.no_grad():
        image = head.get_targets(head._pyramid(outs[0]), outs[3], gts, METAS)
    found = image.log_quality.exp()
    fine = image.pairs.points < 320
    right = points[image.pairs.points[fine], 0] > 80
    assert found[fine][right].mean() > 2 * found[fine][~right].mean()
    head.train_cfg.update(samples=400)
    drawn = head.get_targets(head._pyramid(outs[0]), outs[3], gts, METAS).samples
    right = drawn.positions[drawn.levels == 0, 0] > 80
    assert right.sum() > 2 * (~right).sum()


def test_the_encoder_is_absent_in_testing(head, monkeypatch):
    head.eval()
    with torch.no_grad():
        outs = head(features())
        expected = head.predict_by_feat(*outs, batch_img_metas=METAS)
        for parameter in head.encoder.parameters():
            parameter.normal_()
        monkeypatch.setattr(head.encoder, "forward", None)
        found = head.predict_by_feat(*head(features()), batch_img_metas=METAS)
    for image, other in zip(found, expected, strict=True):
        assert len(image) > 10
        for key in ("bboxes", "scores", "labels"):
            assert torch.equal(image[key], other[key])


def test_detections_are_those_of_ota(head):
    """With the weights of the parts that both have."""
    ota = narrow_head("ota.py")
    missing, unexpected = ota.load_state_dict(head.state_dict(), strict=False)
    assert missing == []
    assert {name.split(".")[0] for name in unexpected} == {"encoder"}
    with torch.no_grad():
        found, expected = (
            model.predict_by_feat(*model(features()), batch_img_metas=METAS)
            for model in (head.eval(), ota.eval())
        )
    for image, other in zip(found, expected, strict=True):
        assert torch.equal(image.bboxes, other.bboxes)
        assert torch.equal(image.scores, other.scores)


# The configuration


def small_model(norm_eval: bool = True) -> torch.nn.Module:
    config = configuration("iqdet.py", "smoke", {"strides": [4, 8, 16], "quality_channels": 32})
    config.model.backbone.norm_eval = norm_eval
    torch.manual_seed(0)
    model = build_model(config)
    model.init_weights()
    model.bbox_head.set_progress(4, 0.4)
    return model.train()


def test_a_few_images_are_learnt():
    """Samples change from step to step, as they do in training.

    The encoder's loss has to rise before it falls: it is near 0 while no box fits.
    """
    model, batch, steps = small_model(norm_eval=False), whole_batch(4), 60
    optimiser = torch.optim.SGD(model.parameters(), 0.03, momentum=0.9)
    losses, ious, observed = [], [], []

    def observe(outs, gt, metas) -> None:
        observed[:] = outs, gt, metas
        ious.append(means(of_images(model.bbox_head, outs, gt, metas))["positive_iou"])

    for step in range(steps):
        model.bbox_head.set_progress(0, step / steps)
        found = batch_gradient(model, batch, observe=observe)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10)
        optimiser.step()
        losses.append(found["loss_cls"].item() + found["loss_bbox"].item())
    assert sum(losses[-10:]) < 0.75 * sum(losses[:10])
    assert sum(ious[-20:]) / 20 > 0.4
    outs, gt, metas = observed
    image = model.bbox_head.get_targets(model.bbox_head._pyramid(outs[0]), outs[3], gt, metas)
    assert image.labels.mean() > 0.2


def test_the_configuration_has_the_head_of_ota_and_the_papers_constants():
    config, ota = configuration("iqdet.py"), configuration("ota.py")
    head = build_model(config).bbox_head
    head.init_weights()
    encoder = head.encoder
    assert [layer.weight.shape for layer in (encoder.layers[0], encoder.layers[2], encoder.output)] == [
        (1024, 256 * 49),
        (1024, 1024),
        (10, 1024),
    ]
    assert encoder.output.weight.std().item() == pytest.approx(0.01, rel=0.1)
    bound = math.sqrt(6 / (256 * 49 + 1024))  # Xavier's
    assert encoder.layers[0].weight.abs().max().item() == pytest.approx(bound, rel=0.01)
    assert encoder.strides == list(STRIDES)
    assert head.conv_cls.bias.sigmoid().tolist() == pytest.approx([0.01] * len(CLASSES), rel=1e-4)
    assert head.train_cfg == dict(samples=12)
    assert head.quality_weight == 1
    own = dict.fromkeys(("type", "gaussians", "quality_channels", "quality_weight"))
    built = dict.fromkeys(("train_cfg", "test_cfg"))  # which building puts there
    assert {**config.model.bbox_head, **own, **built} == {**ota.model.bbox_head, **own, **built}
    for key in ("backbone", "neck", "test_cfg", "data_preprocessor"):
        assert config.model[key] == ota.model[key]
    assert config.train == ota.train
    assert config.model.test_cfg.nms.iou_threshold == 0.6
    assert SEVERAL.labels.max() < len(CLASSES)
