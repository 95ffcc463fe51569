"""OTA: its plan against SciPy's linear programme, its assignment and losses against a slow restatement."""

import math

import numpy as np
import pytest
import torch
from helpers.point_heads import (
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
from helpers.spoofed_gpu import DEVICE, counting, gpu
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from scipy.optimize import linprog
from torchvision.ops import box_iou, generalized_box_iou_loss

from tood.engine.config import build_model
from tood.models.baselines import ota as ota_module
from tood.models.baselines.ota import (
    assign_by_plan,
    centre_prior,
    classification_costs,
    dynamic_k,
    sinkhorn,
    transport_assign,
)

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
FOCAL = dict(gamma=2.0, alpha=0.25)
OPTIONS = FOCAL | dict(radius=2.5, iou_weight=1.5, top=20, epsilon=0.1, iterations=50)


@pytest.fixture(autouse=True, scope="module")
def mmdet_scope():
    init_default_scope("mmdet")


@pytest.fixture
def head():
    return narrow_head("ota.py")


# The costs


def test_candidates_are_near_the_centre_and_in_the_box():
    """A box of 100 x 12 around (50, 10); strides 4 and 16, so near means within 10 and 40 pixels."""
    boxes = torch.tensor([[0.0, 4, 100, 16]])
    places = [(50, 10), (59.9, 10), (60, 10), (50, 15.98), (50, 15.995), (50, 17), (89.9, 10), (90.1, 10)]
    points = torch.tensor(places * 2, dtype=torch.float)
    strides = torch.tensor([4.0] * 8 + [16.0] * 8)
    fine = [True, True, False, True, False, False, False, False]
    coarse = [True, True, True, True, False, False, True, False]
    assert centre_prior(points, strides, boxes, 2.5)[0].tolist() == fine + coarse


def test_classification_costs_are_focal_losses():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(7, 4, generator=generator, dtype=torch.float64) * 3
    labels = torch.tensor([2, 0, 2])
    found, background = classification_costs(logits, labels, **FOCAL)
    for j in range(7):
        p = logits[j].sigmoid().tolist()
        negative = [-0.75 * q**2 * math.log(1 - q) for q in p]
        assert background[j].item() == pytest.approx(sum(negative))
        for i, label in enumerate(labels.tolist()):
            q = p[label]
            expected = sum(negative) - negative[label] - 0.25 * (1 - q) ** 2 * math.log(q)
            assert found[i, j].item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("ious", "candidate", "top", "expected"),
    [
        ([0.9, 0.8, 0.7], [1, 1, 1], 20, 2),  # 2.4, rounded down
        ([0.9, 0.8, 0.7], [1, 1, 1], 2, 1),
        ([0.9, 0.8, 0.7], [1, 1, 0], 20, 1),  # the third does not count
        ([0.9, 0.8, 0.7], [0, 0, 0], 20, 1),  # at least one
        ([0.3, 0.2, 0.1], [1, 1, 1], 20, 1),
        ([1.0] * 30, [1] * 30, 20, 20),
    ],
)
def test_number_of_labels_of_an_object(ious, candidate, top, expected):
    found = dynamic_k(torch.tensor([ious]), torch.tensor([candidate]).bool(), top)
    assert found.tolist() == [expected]


# The plan


def transport_problem(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Cost, supply and demand of three objects and a background over 14 points."""
    generator = torch.Generator().manual_seed(seed)
    cost = torch.rand(4, 14, generator=generator, dtype=torch.float64) * 4
    cost[:3][torch.rand(3, 14, generator=generator) < 0.3] += 50  # no candidates
    supply = torch.tensor([1.0, 3, 2, 8], dtype=torch.float64)
    return cost, supply, torch.ones(14, dtype=torch.float64)


def linear_programme(cost: torch.Tensor, supply: torch.Tensor, demand: torch.Tensor) -> np.ndarray:
    """The cheapest plan, by SciPy."""
    N, A = cost.shape
    rows = np.kron(np.eye(N), np.ones(A))
    columns = np.kron(np.ones(N), np.eye(A))
    solution = linprog(
        cost.flatten().numpy(),
        A_eq=np.concatenate([rows, columns]),
        b_eq=torch.cat([supply, demand]).numpy(),
        method="highs",
    )
    assert solution.status == 0
    return solution.x.reshape(N, A)


def entropy(plan: np.ndarray) -> float:
    positive = plan[plan > 0]
    return -(positive * np.log(positive)).sum()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("epsilon", [1.0, 0.3, 0.1])
def test_plan_holds_its_marginals_and_costs_little_more_than_the_cheapest(seed, epsilon):
    """Its objective is the least: the excess of its cost is at most epsilon times that of its entropy."""
    cost, supply, demand = transport_problem(seed)
    plan = sinkhorn(cost, supply, demand, epsilon, 2000).exp().numpy()
    assert plan.sum(1) == pytest.approx(supply.numpy(), abs=1e-6)
    missing = np.abs(plan.sum(0) - 1).sum()  # of the demand, as the iterations are not infinitely many
    assert missing < 1e-3
    cheapest = linear_programme(cost, supply, demand)
    excess = ((plan - cheapest) * cost.numpy()).sum()
    slack = 60 * missing + 1e-6
    assert -slack <= excess <= epsilon * (entropy(plan) - entropy(cheapest)) + slack
    assert excess > 1e-2 or epsilon < 0.3  # it is not the linear programme's own


@pytest.mark.parametrize("seed", range(4))
def test_with_little_entropy_the_assignment_is_that_of_the_linear_programme(seed):
    cost, supply, demand = transport_problem(seed)
    cheapest = linear_programme(cost, supply, demand)
    assert np.isin(cheapest.round(9), [0, 1]).all()
    log_plan = sinkhorn(cost, supply, demand, 0.01, 5000)
    owner = torch.from_numpy(cheapest.argmax(0))
    assert assign_by_plan(log_plan).tolist() == owner.where(owner < 3, -1).tolist()


def test_fifty_iterations_hold_the_supply():
    """The last half of an iteration is the supply's, so it holds however far the demand is."""
    cost, supply, demand = transport_problem(0)
    plan = sinkhorn(cost, supply, demand, 0.1, 50).exp()
    torch.testing.assert_close(plan.sum(1), supply, rtol=1e-6, atol=0)


def plain_sinkhorn(cost, supply, demand, epsilon, iterations) -> torch.Tensor:
    """Logarithms of sums in every step, as the authors' code has it."""
    u, v = torch.ones_like(supply), torch.ones_like(demand)
    for _ in range(iterations):
        columns = ((u[:, None] + v - cost) / epsilon).logsumexp(0)
        v = v + epsilon * ((demand + 1e-8).log() - columns)
        rows = ((u[:, None] + v - cost) / epsilon).logsumexp(1)
        u = u + epsilon * ((supply + 1e-8).log() - rows)
    return (u[:, None] + v - cost) / epsilon


def image_problem(case: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Costs as of an image, in float64: 20 objects with 1 to 30 candidates of 3000 points; a background."""
    generator = torch.Generator().manual_seed(0)
    cost = torch.rand(21, 3000, generator=generator, dtype=torch.float64) * (400 if case == "wide" else 20)
    cost[:-1] += 1e6
    candidates = torch.randint(1, 31, (20,), generator=generator).tolist()
    for i, number in enumerate(candidates):
        first = i * 7  # objects share points
        cost[i, first : first + number] -= 1e6
    supply = torch.tensor([max(number // 3, 1) for number in candidates], dtype=torch.float64)
    background = 3000 - supply.sum(0, keepdim=True)
    if case == "no background":
        background = torch.zeros(1, dtype=torch.float64)
    if case == "no candidates":
        cost[3] += 1e6
        cost[3, :30] -= 1e6
    return cost, torch.cat([supply, background]), torch.ones(3000, dtype=torch.float64)


@pytest.mark.parametrize("iterations", [1, 2, 3, 9, 50])
@pytest.mark.parametrize("case", ["ordinary", "wide", "no background", "no candidates"])
def test_rescaled_plans_are_those_of_the_plain_iteration(case, iterations):
    cost, supply, demand = image_problem(case)
    found = sinkhorn(cost, supply, demand, 0.1, iterations)
    expected = plain_sinkhorn(cost, supply, demand, 0.1, iterations)
    # With a cost of a million, float64 has the logarithm to 1e-9.
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-7)
    assert torch.equal(assign_by_plan(found), assign_by_plan(expected))


@pytest.mark.parametrize("case", ["ordinary", "wide", "no background", "no candidates"])
def test_a_gpu_has_the_same_plan_and_waits_for_nothing(case):
    """There the plan is computed anew in each iteration, and taken where the one before has gone too far."""
    problem = image_problem(case)
    expected = sinkhorn(*problem, 0.1, 50)
    with gpu():
        there = [part.to(DEVICE) for part in problem]
        with counting() as waits:
            found = sinkhorn(*there, 0.1, 50)
    assert torch.equal(found.values, expected)
    assert not waits, str(waits)


def test_rescaled_plans_in_float32():
    """As close to the plan of float64 as the plain iteration is, to a factor of 2."""
    problem = image_problem("ordinary")
    exact = plain_sinkhorn(*problem, 0.1, 50).exp()
    problem = tuple(part.float() for part in problem)
    found = sinkhorn(*problem, 0.1, 50)
    error, plain_error = (
        (plan.exp() - exact).abs().max() for plan in (found, plain_sinkhorn(*problem, 0.1, 50))
    )
    assert error < max(2 * plain_error, 1e-5)
    assert torch.equal(assign_by_plan(found), assign_by_plan(exact.log()))


def test_rows_are_compared_relative_to_their_largest_entry():
    """The background has most of every column; an object has its own best points all the same."""
    plan = torch.tensor([[0.30, 0.02, 0.01], [0.05, 0.20, 0.05], [0.65, 0.78, 0.94]])
    # Divided: (1, .07, .03), (.25, 1, .25), (.69, .83, 1)
    assert assign_by_plan(plan.log()).tolist() == [0, 1, -1]
    assert plan.argmax(0).tolist() == [2, 2, 2]


def test_a_row_of_nothing_assigns_nothing():
    """In the plan itself its largest entry is 0 in float32; its logarithm is not."""
    log_plan = torch.tensor([[-200.0, -300.0, -300.0], [-0.5, -0.1, 0.0]])
    assert assign_by_plan(log_plan).tolist() == [0, -1, -1]
    assert (log_plan[0].exp() == 0).all()


# The assignment


def slow_assignment(logits, boxes, points, strides, gt_boxes, gt_labels) -> list[int]:
    """OTA over single pairs, in Python's numbers. Its constants are OPTIONS."""
    G, A = len(gt_boxes), len(points)
    if G == 0:
        return [-1] * A
    cost = [[0.0] * A for _ in range(G + 1)]
    k = []
    for i, ((x1, y1, x2, y2), label) in enumerate(zip(gt_boxes, gt_labels, strict=True)):
        counted = []
        for j, (x, y) in enumerate(points):
            inside = min(x - x1, y - y1, x2 - x, y2 - y) > 0.01
            reach, cx, cy = 2.5 * strides[j], (x1 + x2) / 2, (y1 + y2) / 2
            left, top, right, bottom = max(cx - reach, x1), max(cy - reach, y1), cx + reach, cy + reach
            near = min(x - left, y - top, min(right, x2) - x, min(bottom, y2) - y) > 0
            a1, b1, a2, b2 = boxes[j]
            overlap = max(min(a2, x2) - max(a1, x1), 0) * max(min(b2, y2) - max(b1, y1), 0)
            union = (a2 - a1) * (b2 - b1) + (x2 - x1) * (y2 - y1) - overlap
            iou = overlap / union
            counted.append(iou if inside and near else 0.0)
            loss = 0.0
            for c, logit in enumerate(logits[j]):
                p = 1 / (1 + math.exp(-logit))
                loss += -0.25 * (1 - p) ** 2 * math.log(p) if c == label else -0.75 * p**2 * math.log(1 - p)
            loss += 1.5 * -math.log(max(iou, 2**-23))
            cost[i][j] = loss + (0 if inside and near else 1e6)
        k.append(max(1, int(sum(sorted(counted)[-20:]))))
    for j in range(A):
        for logit in logits[j]:
            p = 1 / (1 + math.exp(-logit))
            cost[G][j] += -0.75 * p**2 * math.log(1 - p)
    supply = [*k, A - sum(k)]
    u, v = [1.0] * (G + 1), [1.0] * A
    rows, columns = range(G + 1), range(A)

    def entry(i: int, j: int) -> float:
        return (-cost[i][j] + u[i] + v[j]) / 0.1

    def log_sum(values: list[float]) -> float:
        largest = max(values)
        return largest + math.log(sum(math.exp(value - largest) for value in values))

    for _ in range(50):
        v = [v[j] + 0.1 * (math.log(1 + 1e-8) - log_sum([entry(i, j) for i in rows])) for j in columns]
        u = [
            u[i] + 0.1 * (math.log(supply[i] + 1e-8) - log_sum([entry(i, j) for j in columns])) for i in rows
        ]
    plan = [[math.exp(entry(i, j)) for j in columns] for i in rows]
    plan = [[value / max(row) for value in row] for row in plan]
    owners = [max(rows, key=lambda i, j=j: plan[i][j]) for j in columns]
    return [-1 if owner == G else owner for owner in owners]


def rows(levels: list[torch.Tensor], b: int) -> torch.Tensor:
    return torch.cat([maps[b].flatten(1).T for maps in levels])


def grid(outs: tuple[list[torch.Tensor], ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Points at multiples of the stride, row by row, and their strides."""
    points, strides = [], []
    for maps, stride in zip(outs[0], STRIDES, strict=True):
        height, width = maps.shape[-2:]
        points += [(x * stride, y * stride) for y in range(height) for x in range(width)]
        strides += [stride] * (height * width)
    return torch.tensor(points, dtype=torch.float64), torch.tensor(strides, dtype=torch.float64)


def predicted(outs, b: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits [A, C], boxes [A, 4] and IoU logits [A] of an image, from the maps in training, in float64."""
    points, strides = grid(outs)
    left, top, right, bottom = (rows(outs[1], b).double() * strides[:, None]).unbind(1)
    boxes = torch.stack(
        [points[:, 0] - left, points[:, 1] - top, points[:, 0] + right, points[:, 1] + bottom], 1
    )
    return rows(outs[0], b).double(), boxes, rows(outs[2], b).double().squeeze(1)


def trained_like(seed: int) -> tuple[list[torch.Tensor], ...]:
    """Maps of a head that has learnt something: boxes have the sizes of objects, some logits are high."""
    generator = torch.Generator().manual_seed(seed)
    grids = [(16, 20), (8, 10), (4, 5), (2, 3), (1, 2)]
    logits = [torch.randn(2, 5, *g, generator=generator, dtype=torch.float64) * 1.5 - 2 for g in grids]
    distances = [torch.rand(2, 4, *g, generator=generator, dtype=torch.float64) * 3 + 0.5 for g in grids]
    ious = [torch.randn(2, 1, *g, generator=generator, dtype=torch.float64) for g in grids]
    return logits, distances, ious


def in_double(gts: list[InstanceData]) -> list[InstanceData]:
    return [InstanceData(bboxes=gt.bboxes.double(), labels=gt.labels) for gt in gts]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("gts", [GTS, [objects(), OVERLAPPING]], ids=["several", "one empty"])
def test_assignment_is_the_slow_one(seed, gts):
    outs = trained_like(seed)
    points, strides = grid(outs)
    for b, gt in enumerate(gts):
        logits, boxes, _ = predicted(outs, b)
        found = transport_assign(logits, boxes, points, strides, gt.bboxes.double(), gt.labels, **OPTIONS)
        arguments = (logits, boxes, points, strides, gt.bboxes, gt.labels)
        expected = slow_assignment(*(argument.tolist() for argument in arguments))
        assert found.tolist() == expected
        assert set(found.tolist()) == {-1, *range(len(gt))}  # every object has a point, and so has none


def test_a_perfect_box_takes_its_points_and_a_box_elsewhere_does_not():
    """Two objects of one class side by side. Each point predicts one of them exactly, or nothing."""
    gt = objects([0, 0, 32, 32], [64, 0, 96, 32], labels=[1, 1])
    points = torch.tensor([[x, y] for y in (8.0, 16, 24) for x in (8.0, 16, 24, 72, 80, 88)])
    boxes = gt.bboxes[[0, 0, 0, 1, 1, 1] * 3].clone()
    boxes[4] = torch.tensor([78.0, 6, 82, 10])  # little of the second
    boxes[1] = gt.bboxes[1]  # the second, from a point of the first
    logits = torch.full((18, 3), -4.0)
    logits[:, 1] = 2.0
    found = transport_assign(logits, boxes, points, torch.full((18,), 8.0), gt.bboxes, gt.labels, **OPTIONS)
    # k is 8 and 8: the sum of the IoUs of 8 perfect boxes and of one that is almost nothing
    expected = [0, -1, 0, 1, -1, 1] + [0, 0, 0, 1, 1, 1] * 2
    assert found.tolist() == expected


def test_a_point_between_two_objects_goes_to_the_one_of_its_class():
    gt = objects([0, 0, 40, 40], [0, 0, 40, 40], labels=[0, 2])
    points = torch.tensor([[16.0, 16], [24, 16], [16, 24], [24, 24], [200, 200], [200, 208]])
    logits = torch.full((6, 3), -4.0)
    logits[[0, 1], 0] = logits[[2, 3], 2] = 3.0
    boxes = gt.bboxes[[0] * 6]
    found = transport_assign(logits, boxes, points, torch.full((6,), 8.0), gt.bboxes, gt.labels, **OPTIONS)
    assert found.tolist() == [0, 0, 1, 1, -1, -1]


def test_no_loss_is_as_large_as_that_of_not_being_a_candidate():
    """The only candidate predicts nothing like the object, and a point outside predicts it perfectly."""
    gt = objects([0, 0, 32, 32], labels=[1])
    points = torch.tensor([[16.0, 16], [40, 16], [48, 16], [56, 16]])
    logits = torch.full((4, 3), -4.0)
    logits[0, 1], logits[1, 1] = -1000.0, 4.0
    boxes = torch.cat([torch.tensor([[15.0, 15, 17, 17]]), gt.bboxes[[0, 0, 0]]])
    found = transport_assign(logits, boxes, points, torch.full((4,), 8.0), gt.bboxes, gt.labels, **OPTIONS)
    assert found.tolist() == [0, -1, -1, -1]


@pytest.mark.parametrize("case", hard_cases())
def test_positives_of_hard_cases(case, head):
    """An object that has candidates and room has a point."""
    gt = hard_cases()[case]
    outs = head(features())
    first, second = head.positives_by_feat(*outs, batch_gt_instances=[gt, SEVERAL], batch_img_metas=METAS)
    if case == "empty":
        assert len(first.anchors) == 0
    if case in ("tiny", "at the border"):
        assert set(first.objects.tolist()) == set(range(len(gt)))
    # What is in one image does not matter for another.
    of_second = [[level[1:] for level in maps] for maps in outs]
    (alone,) = head.positives_by_feat(*of_second, batch_gt_instances=[SEVERAL], batch_img_metas=METAS[1:])
    assert all(torch.equal(a, b) for a, b in zip(second, alone, strict=True))


def test_more_labels_than_points():
    """The authors' code takes the logarithm of a negative supply here."""
    gt = objects(*[[0.0, 0, 64, 64]] * 9, labels=[0] * 9)
    points = torch.tensor([[24.0, 24], [32, 24], [24, 32], [32, 32]])
    logits = torch.zeros(4, 2)
    boxes = gt.bboxes[:4]
    found = transport_assign(logits, boxes, points, torch.full((4,), 32.0), gt.bboxes, gt.labels, **OPTIONS)
    assert ((found >= 0) & (found < 9)).all()  # k is 4 for each, and none is left for the background


# The head


def slow_losses(outs, gts) -> dict[str, torch.Tensor]:
    found = {"loss_cls": 0.0, "loss_bbox": 0.0, "loss_iou": 0.0}
    positives = 0
    points, strides = grid(outs)
    for b, gt in enumerate(gts):
        logits, boxes, iou_logits = predicted(outs, b)
        arguments = (logits, boxes, points, strides, gt.bboxes, gt.labels)
        owners = slow_assignment(*(argument.tolist() for argument in arguments))
        target = torch.zeros_like(logits)
        for j, owner in enumerate(owners):
            if owner < 0:
                continue
            positives += 1
            target[j, gt.labels[owner]] = 1
            truth = gt.bboxes[owner].double()[None]
            found["loss_bbox"] += 2 * generalized_box_iou_loss(boxes[j][None], truth).squeeze()
            iou = box_iou(boxes[j][None], truth).detach().squeeze()
            p = iou_logits[j].sigmoid()
            found["loss_iou"] -= 0.5 * (iou * p.log() + (1 - iou) * (1 - p).log())
        p = logits.sigmoid()
        focal = 0.25 * target * (1 - p) ** 2 * p.log() + 0.75 * (1 - target) * p**2 * (1 - p).log()
        found["loss_cls"] -= focal.sum()
    return {name: loss / max(positives, 1) for name, loss in found.items()}


@pytest.mark.parametrize("gts", [GTS, [objects(), OVERLAPPING]], ids=["several", "one empty"])
def test_losses_are_the_slow_ones(head, gts):
    head.double()
    outs = tuple([level.requires_grad_() for level in maps] for maps in trained_like(1))
    leaves = [level for maps in outs for level in maps]
    found = head.loss_by_feat(*outs, in_double(gts), METAS)
    expected = slow_losses(outs, gts)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        # mmdet makes float32 of the IoU as a target, and adds float32's epsilon to divisors.
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=0, msg=name)
    gradients = torch.autograd.grad(sum(found.values()), leaves)
    their_gradients = torch.autograd.grad(sum(expected.values()), leaves)
    for gradient, other in zip(gradients, their_gradients, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-5, atol=1e-9)


def test_gradients_reach_every_parameter(head, monkeypatch):
    """With positives on all levels, whatever the assignment would be."""
    outs = head(features())
    everywhere = torch.zeros_like(head._match(*outs[:2], GTS))
    monkeypatch.setattr(head, "_match", lambda *_: everywhere)
    losses = head.loss_by_feat(*outs, GTS, METAS)
    for name, loss in losses.items():
        assert loss > 0, name
    sum(losses.values()).backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_testing_and_training_agree_on_boxes_and_positives(head):
    with torch.no_grad():
        training = head(features())
        positives = head.positives_by_feat(*training, batch_gt_instances=GTS, batch_img_metas=METAS)
        levels = head.dense_by_feat(*training, batch_img_metas=METAS, clip=False)
        head.eval()
        testing = head(features())
        assert not torch.equal(training[1][0], testing[1][0])  # strides and pixels
        others = head.positives_by_feat(*testing, batch_gt_instances=GTS, batch_img_metas=METAS)
        other_levels = head.dense_by_feat(*testing, batch_img_metas=METAS, clip=False)
    for found, expected in zip(others, positives, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    for image, other in zip(levels, other_levels, strict=True):
        for level, another in zip(image, other, strict=True):
            torch.testing.assert_close(level.boxes, another.boxes)
            torch.testing.assert_close(level.scores, another.scores)
    # Boxes as the loss decodes them
    for b, image in enumerate(levels):
        _, boxes, _ = predicted(training, b)
        torch.testing.assert_close(
            torch.cat([level.boxes for level in image]).double(), boxes, rtol=1e-5, atol=1e-4
        )


def test_score_is_the_geometric_mean(head):
    with torch.no_grad():
        outs = head.eval()(features())
    level = head.dense_by_feat(*outs, batch_img_metas=METAS)[0][1]
    cls, iou = outs[0][1][0].sigmoid().flatten(1).T, outs[2][1][0].sigmoid().flatten(1).T
    torch.testing.assert_close(level.scores, (cls * iou).sqrt())
    assert level.confidence is level.scores
    assert level.points[:3].tolist() == [[0, 0], [16, 0], [32, 0]]
    assert level.boxes.min() >= 0


def test_the_threshold_holds_for_the_score(head):
    """A class of probability .01 and an IoU near 1 make a score near .1, which is above .05."""
    outs = [[torch.full((1, c, 4, 4), value)] for c, value in ((5, -20.0), (4, 8.0), (1, 20.0))]
    outs[0][0][0, 3, 2, 2] = math.log(0.01 / 0.99)
    head.strides, head.prior_generator.strides = head.strides[:1], head.prior_generator.strides[:1]
    head.eval()
    (found,) = head.predict_by_feat(*outs, batch_img_metas=[meta((32, 32), (32, 32))])
    assert found.labels.tolist() == [3]
    assert found.scores.tolist() == pytest.approx([0.1], rel=1e-4)
    assert found.bboxes.tolist() == [[8, 8, 24, 24]]


# The configuration


def test_the_configuration_has_the_authors_head():
    config = configuration("ota.py")
    head = build_model(config).bbox_head
    assert [tuple(stride) for stride in head.prior_generator.strides] == [(s, s) for s in STRIDES]
    assert head.prior_generator.offset == 0
    for tower in (head.cls_convs, head.reg_convs):
        assert len(tower) == 4
        for layer in tower:
            assert layer.conv.bias is not None
            assert layer.norm.num_groups == 32
    assert head.conv_centerness.out_channels == 1
    assert (head.loss_cls.gamma, head.loss_cls.alpha) == (2, 0.25)
    assert (head.loss_cls.loss_weight, head.loss_bbox.loss_weight, head.loss_centerness.loss_weight) == (
        1,
        2,
        0.5,
    )
    assert {**FOCAL, **head.train_cfg} == OPTIONS
    assert config.model.test_cfg.nms.iou_threshold == 0.6
    assert ota_module.IN_BOX == 0.01
