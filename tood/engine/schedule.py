"""Epochs, images and learning rate as pure functions of the iteration, so that resuming needs no state."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from mmengine.config import Config


def learning_rate(
    iteration: int,
    *,
    base: float,
    iterations_per_epoch: int,
    milestones: Sequence[int],
    warmup_iterations: int,
    warmup_factor: float,
    warmup: str,
) -> float:
    """Warm-up, then a tenth of the rate from each milestone on (paper: supplement, "Optimization").

    Args:
        iteration: counted from 0.
        base: learning rate after the warm-up.
        iterations_per_epoch: number of batches in an epoch.
        milestones: epochs after which the rate falls.
        warmup_iterations: length of the warm-up. The base is reached one iteration before its end, as with
            mmengine's LinearLR and ConstantLR with `end=warmup_iterations`.
        warmup_factor: share of the base at the start of the warm-up.
        warmup: "linear", or "constant" to stay at `warmup_factor * base`.

    Raises:
        ValueError: unknown `warmup`.
    """
    drops = bisect_right(milestones, iteration // iterations_per_epoch)
    rate = base * 0.1**drops
    if warmup not in ("linear", "constant"):
        raise ValueError(f"train.warmup is {warmup!r}; it must be 'linear' or 'constant'")
    if iteration < warmup_iterations - 1:
        done = iteration / (warmup_iterations - 1) if warmup == "linear" else 0
        rate *= warmup_factor + (1 - warmup_factor) * done
    return rate


@dataclass(frozen=True)
class Schedule:
    """The iterations of one training."""

    config: Config  # resolved, of which `train` and `schedule` are used
    images_per_epoch: int
    limit: int | None = None  # of iterations; None: the whole schedule

    @property
    def epochs(self) -> int:
        """Epochs of the whole schedule."""
        return self.config.schedule.epochs

    @property
    def per_epoch(self) -> int:
        """Iterations of an epoch; the last batch may have fewer images."""
        return math.ceil(self.images_per_epoch / self.config.train.batch_size)

    @property
    def scheduled(self) -> int:
        """Iterations of the whole schedule."""
        return self.per_epoch * self.epochs

    @property
    def last(self) -> int:
        """Iterations after which this training ends."""
        return self.scheduled if self.limit is None else min(self.limit, self.scheduled)

    def images(self, iteration: int) -> int:
        """Images that are used before an iteration."""
        epochs, batches = divmod(iteration, self.per_epoch)
        return epochs * self.images_per_epoch + batches * self.config.train.batch_size

    def rate(self, iteration: int) -> float:
        """Learning rate of an iteration."""
        train = self.config.train
        return learning_rate(
            iteration,
            base=train.lr,
            iterations_per_epoch=self.per_epoch,
            milestones=self.config.schedule.milestones,
            warmup_iterations=train.warmup_iterations,
            warmup_factor=train.warmup_factor,
            warmup=train.warmup,
        )

    def describe(self, iteration: int) -> str:
        """Text on an iteration for a message."""
        return f"epoch {iteration // self.per_epoch}, lr {self.rate(iteration):g}"
