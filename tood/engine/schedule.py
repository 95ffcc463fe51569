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
