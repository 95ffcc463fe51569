"""The losses of several replicas in one process, with their means where a head averages over GPUs.

A head of mmdet computes its loss in one function. In it the head calls `reduce_mean`, which waits for other
GPUs. Here each replica is a coroutine, and a call of `reduce_mean` lets the next one run. When all have
called it, each continues with the mean.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from greenlet import getcurrent, greenlet
from torch import Tensor, nn

_Result = TypeVar("_Result")


@contextmanager
def averaging(head: nn.Module, mean: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Let a head's loss call `mean` where it calls mmdet's `reduce_mean`, within a block."""
    modules = {sys.modules[kind.__module__] for kind in type(head).__mro__}
    patched: list[tuple[Any, Any]] = [(m, m.reduce_mean) for m in modules if hasattr(m, "reduce_mean")]
    for module, _ in patched:
        module.reduce_mean = mean
    try:
        yield
    finally:
        for module, original in patched:
            module.reduce_mean = original


def evaluate_side_by_side(
    number: int,
    evaluate: Callable[[int], _Result],
    mean: Callable[[Sequence[Tensor]], Tensor],
    head: nn.Module,
) -> list[_Result]:
    """What `evaluate` returns for each replica, from 0 to `number` - 1.

    Args:
        number: of replicas.
        evaluate: computes the loss of one replica; it may call `reduce_mean` of the head's modules.
        mean: computes, from the arguments of all replicas to one such call, the mean that each of them gets.
        head: whose loss it is.

    Raises:
        RuntimeError: one replica calls `reduce_mean` more often than another.
    """
    main, enabled = getcurrent(), torch.is_grad_enabled()

    def hand_over(value: Tensor) -> Tensor:
        inside = torch.is_grad_enabled()
        torch.set_grad_enabled(enabled)  # torch has one mode for the whole thread
        try:
            average = main.switch(value)
        finally:
            torch.set_grad_enabled(inside)
        return average.clone()  # heads change it in place

    with averaging(head, hand_over):
        replicas = [greenlet(evaluate) for _ in range(number)]
        try:
            answers = [replica.switch(index) for index, replica in enumerate(replicas)]
            while not any(replica.dead for replica in replicas):
                average = mean(answers)
                answers = [replica.switch(average) for replica in replicas]
            if not all(replica.dead for replica in replicas):
                kind = type(head).__name__
                raise RuntimeError(f"{kind}: one replica averages over GPUs more often than another")
            return answers
        finally:
            for replica in replicas:
                if replica:  # it waits, because another one failed
                    replica.throw()
            torch.set_grad_enabled(enabled)
