"""Losses that are read at once, and those that wait on the device."""

import math

import pytest
import torch

from tood.engine.loss_watch import LossWatch
from tood.runtime.failures import Diverged


def watch(at_once: bool) -> LossWatch:
    return LossWatch(at_once, describe=lambda iteration: f"epoch {iteration // 10}")


@pytest.mark.parametrize("at_once", [True, False])
def test_finite_losses(at_once):
    losses = watch(at_once)
    assert losses.read() is None
    for iteration, loss in enumerate([3.0, 2.0, 1.5]):
        losses.add(torch.tensor(loss, requires_grad=True), iteration)
    assert at_once == (losses.last == 1.5)
    assert losses.read() == losses.last == 1.5


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_read_at_once_the_iteration_itself_fails(bad):
    losses = watch(True)
    losses.add(torch.tensor(1.0), 12)
    with pytest.raises(Diverged, match=rf"the loss is {bad} at iteration 13 \(epoch 1\)"):
        losses.add(torch.tensor(bad), 13)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_read_later_the_first_one_is_named(bad):
    """Also where the loss is a number again, and where a later one is bad in another way."""
    losses = watch(False)
    for iteration, loss in enumerate([1.0, bad, 2.0, math.nan, 5.0]):
        losses.add(torch.tensor(loss), iteration + 20)
    for _ in range(2):  # a save after it fails as well
        with pytest.raises(Diverged, match=rf"the loss is {bad} at iteration 21 \(epoch 2\)"):
            losses.read()


def test_nothing_is_read_before_it_is_asked_for():
    """Meta tensors cannot be read, as if the device were never done."""
    losses = watch(False)
    for iteration in range(3):
        losses.add(torch.zeros((), device="meta"), iteration)
    with pytest.raises(RuntimeError, match="meta"):
        losses.read()
