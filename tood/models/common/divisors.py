"""The divisor of a loss whose source averages the divisor over GPUs.

Heads call `reduce_mean`, as mmdet's do: the mean of a number over all GPUs. A training here has virtual GPUs
instead (`tood.engine.replicas`). How it computes them depends on when these numbers are known.
"""

from enum import Enum, auto


class Divisors(Enum):
    """What decides the numbers that a head's loss hands to `reduce_mean`."""

    NONE = auto()  # the loss does not call it
    TARGETS = auto()  # targets alone: `divisors_from_targets` gives the numbers in the order of the calls
    SHARED = auto()  # predictions; all losses have one divisor, which `divisor` makes of the mean
    PREDICTIONS = auto()  # predictions; the numbers are known only after all predictions
