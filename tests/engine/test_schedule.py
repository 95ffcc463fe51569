"""The learning rate of each iteration, against mmengine's schedulers."""

import pytest
import torch
from mmengine.optim import ConstantLR, LinearLR, MultiStepLR

from tood.engine.schedule import learning_rate


def rates_of_mmengine(number, base, per_epoch, milestones, kind, warmup, factor) -> list[float]:
    """What mmengine's schedulers, stepped as its Runner does, set before each iteration."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=base)
    if kind == "linear":
        rising = LinearLR(optimizer, start_factor=factor, by_epoch=False, begin=0, end=warmup)
    else:
        rising = ConstantLR(optimizer, factor=factor, by_epoch=False, begin=0, end=warmup)
    steps = MultiStepLR(optimizer, milestones=milestones, gamma=0.1, by_epoch=True)
    rates = []
    for iteration in range(number):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        rising.step()
        if (iteration + 1) % per_epoch == 0:
            steps.step()
    return rates


@pytest.mark.parametrize("kind", ["linear", "constant"])
@pytest.mark.parametrize(
    ("base", "per_epoch", "milestones", "warmup", "factor"),
    [
        (0.01, 200, [8, 11], 500, 0.001),
        (0.01, 7, [8, 11], 500, 0.001),  # both drops within the warm-up
        (0.04, 20, [8, 11], 50, 0.001),
        (0.08, 13, [12, 16], 100, 0.1),
        (0.5, 3, [2], 2, 0.25),
    ],
)
def test_learning_rate_is_that_of_mmengine(base, per_epoch, milestones, kind, warmup, factor):
    number = per_epoch * (milestones[-1] + 1)
    expected = rates_of_mmengine(number, base, per_epoch, milestones, kind, warmup, factor)
    found = [
        learning_rate(
            iteration,
            base=base,
            iterations_per_epoch=per_epoch,
            milestones=milestones,
            warmup_iterations=warmup,
            warmup_factor=factor,
            warmup=kind,
        )
        for iteration in range(number)
    ]
    assert found == pytest.approx(expected, rel=1e-9)
    assert found[0] == pytest.approx(base * factor)


@pytest.mark.parametrize("kind", ["linear", "constant"])
@pytest.mark.parametrize("warmup", [0, 1])
def test_no_warmup(warmup, kind):
    for iteration, expected in [(0, 0.3), (3, 0.3), (4, 0.03), (8, 0.003)]:
        assert learning_rate(
            iteration,
            base=0.3,
            iterations_per_epoch=4,
            milestones=[1, 2],
            warmup_iterations=warmup,
            warmup_factor=0.001,
            warmup=kind,
        ) == pytest.approx(expected)


def test_unknown_warmup():
    with pytest.raises(ValueError, match=r"train\.warmup is 'slow'; it must be 'linear' or 'constant'"):
        learning_rate(
            9,
            base=0.3,
            iterations_per_epoch=4,
            milestones=[1],
            warmup_iterations=2,
            warmup_factor=0.1,
            warmup="slow",
        )
