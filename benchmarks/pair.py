"""What a benchmark is."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from benchmarks.measure import LEAST_REPEATS

FLOAT = 4  # bytes


class Pair(NamedTuple):
    """Two functions that do the same, ready to run."""

    ours: Callable[[], Any]
    peer: Callable[[], Any] | None
    compare: Callable[[Any, Any], None]  # what they return; raises AssertionError
    flops: float = 0  # that are needed
    bytes: float = 0  # that have to be read or written
    skipped: str | None = None  # why there is no peer
    images: int = 0  # that one call takes, where their rate is of interest


class Benchmark(NamedTuple):
    """One line of the table."""

    name: str
    title: str
    peer_name: str
    target: float | None  # of the ratio peer / ours
    floor: str  # what the least time is reckoned from
    build: Callable[[torch.device], Pair]
    images_per_second: float | None = None  # target
    least_repeats: int = LEAST_REPEATS
