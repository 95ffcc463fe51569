"""Whether to stop a training; its processes must decide this together."""

import time
from collections.abc import Callable

import torch
from mmengine.dist import all_reduce, get_world_size

SECONDS = 2.0  # between votes, about; a vote makes the host wait for the device and for all processes
MOST = 100  # iterations between votes
PATIENCE = 10.0  # seconds that a process still waits for images after a stop, before it leaves alone


class StopVotes:
    """Asks whether to stop: one process in each iteration, several about every `SECONDS`.

    So a stop takes effect within `SECONDS` and one iteration. After each vote, the iterations until the next
    are computed from the slowest process's time for an iteration, and are the same in all processes.

    Args:
        stop: whether this process wants to stop.
        device: of the training.
    """

    def __init__(self, stop: Callable[[], bool], device: torch.device) -> None:
        self._stop, self._device = stop, device
        self._left = 0  # iterations until the next vote
        self._between = 1  # iterations between the last two votes
        self._last = time.monotonic()
        self._said: float | None = None  # when a waiting process first received a stop

    def leaves_wait(self) -> bool:
        """Whether to stop waiting for images; `batches_from` asks this."""
        if not self._stop():
            return False
        if self._said is None:
            self._said = time.monotonic()
        return not self._left or time.monotonic() - self._said > PATIENCE

    def agreed(self, nothing_to_do: bool) -> bool:
        """Whether to stop before this iteration; call it once in each.

        Args:
            nothing_to_do: this process has no batch, because it stopped waiting for one.
        """
        if get_world_size() == 1:
            return nothing_to_do or bool(self._stop())
        if self._left:
            self._left -= 1
            return nothing_to_do
        seconds = (time.monotonic() - self._last) / self._between
        vote = torch.tensor([float(nothing_to_do or self._stop()), seconds], device=self._device)
        all_reduce(vote, "max")
        stops, seconds = vote.tolist()
        self._between = max(1, min(MOST, int(SECONDS / max(seconds, 1e-3))))
        self._left, self._last = self._between - 1, time.monotonic()
        return bool(stops)

    @property
    def together(self) -> bool:
        """Whether all processes gave the answer; otherwise others still wait for this one's gradient."""
        return self._left == self._between - 1
