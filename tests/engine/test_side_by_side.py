"""Losses that meet wherever they average over GPUs."""

import pytest
import torch
from mmdet.models.dense_heads import ATSSHead
from mmdet.models.dense_heads import atss_head as module

from tood.engine.side_by_side import averaging, evaluate_side_by_side

HEAD = ATSSHead.__new__(ATSSHead)  # its module calls `reduce_mean`


def mean(values: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack(values).mean(0)


def test_each_goes_on_with_the_mean():
    order = []

    def evaluate(index: int) -> float:
        order.append(index)
        first = module.reduce_mean(torch.tensor(float(index)))
        order.append(index)
        second = module.reduce_mean(torch.tensor([10.0 * index, 1.0]))
        return first.item() + second.sum().item() + index

    assert evaluate_side_by_side(3, evaluate, mean, HEAD) == [12.0, 13.0, 14.0]
    assert order == [0, 1, 2, 0, 1, 2]


def test_a_mean_belongs_to_who_asked():
    found = evaluate_side_by_side(2, lambda _: module.reduce_mean(torch.ones(2)).add_(1), mean, HEAD)
    assert [each.tolist() for each in found] == [[2.0, 2.0]] * 2


def test_the_function_is_back_afterwards():
    original = module.reduce_mean

    def evaluate(index: int) -> float:
        return 1 / 0 if index else module.reduce_mean(torch.ones(())).item()

    with pytest.raises(ZeroDivisionError):
        evaluate_side_by_side(2, evaluate, mean, HEAD)
    assert module.reduce_mean is original
    with averaging(HEAD, lambda value: value + 1):
        assert module.reduce_mean(torch.zeros(())).item() == 1
    assert module.reduce_mean is original


def test_one_that_averages_more_often_is_an_error():
    def evaluate(index: int) -> None:
        for _ in range(index):
            module.reduce_mean(torch.ones(()))

    with pytest.raises(RuntimeError, match="one replica averages over GPUs more often"):
        evaluate_side_by_side(2, evaluate, mean, HEAD)


def test_each_keeps_its_gradient_mode():
    """One averages where no graph is kept; the other begins meanwhile, and keeps one."""

    def evaluate(index: int) -> bool:
        weight = torch.ones((), requires_grad=True)
        with torch.set_grad_enabled(bool(index)):
            module.reduce_mean(torch.ones(()))
            return (weight * 2).requires_grad

    assert evaluate_side_by_side(2, evaluate, mean, HEAD) == [False, True]
    assert torch.is_grad_enabled()
