"""The learning rate as a pure function of the iteration, so that resuming needs no state."""

from bisect import bisect_right
from collections.abc import Sequence


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
    """Warm-up, then a tenth at each milestone (paper: supplement, "Optimization").

    Args:
        iteration: from 0.
        base: learning rate after the warm-up.
        iterations_per_epoch: batches in an epoch.
        milestones: epochs after which the rate falls.
        warmup_iterations: length of the warm-up, which starts at `warmup_factor * base`. As mmengine's
            LinearLR and ConstantLR with `end=warmup_iterations`, which reach the base one iteration before.
        warmup_factor: see there.
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
