"""What a training says while it runs: losses in a file, progress in the terminal and in the run's state."""

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch import Tensor

from tood.engine.loss_log import LossLog
from tood.engine.schedule import Schedule
from tood.runtime.event_files import EventFiles
from tood.runtime.progress import Progress


class Reports:
    """The reports of one training: a context manager once they have begun.

    Args:
        label: text that is shown with the progress.
        loss_log: file of losses as JSON lines.
        event_files: folder of TensorBoard's event files; None writes none.
        beat: takes the progress after each iteration, in keys of `RunState`.
    """

    def __init__(
        self,
        label: str,
        loss_log: Path,
        event_files: Path | None = None,
        beat: Callable[..., None] = lambda **news: None,
    ) -> None:
        self.label, self.beat = label, beat
        self._loss_log, self._event_files = loss_log, event_files

    def begin(self, schedule: Schedule, done: int, silent: bool) -> Self:
        """Open the files; entries of an earlier attempt after `done` iterations are removed.

        Args:
            schedule: of the training.
            done: iterations that are done already.
            silent: neither write nor show anything, as in all processes but rank 0.

        Raises:
            RuntimeError: TensorBoard's package is not installed.
        """
        self._schedule, self._silent = schedule, silent
        images = schedule.images(schedule.last)
        self._progress = Progress(
            self.label, images, done=schedule.images(done), bar=False if silent else None
        )
        if silent:
            return self
        mirror = EventFiles(self._event_files, done) if self._event_files else None
        self._log = LossLog(self._loss_log, done, mirror)
        if done:
            self.beat(resumed_from=done)
        return self

    def __enter__(self) -> Self:
        self._progress.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.__exit__(kind, error, traceback)

    @property
    def images_per_second(self) -> float:
        """Of this attempt so far."""
        return round(self._progress.rate, 2)

    def log(self, done: int, statistics: dict[str, Any], losses: dict[str, Tensor]) -> None:
        """Write an entry of the loss log after `done` iterations: statistics of the positives, and losses."""
        if self._silent:
            return
        schedule = self._schedule
        entry = {"iteration": done, "epoch": done / schedule.per_epoch, "lr": schedule.rate(done - 1)}
        self._log.add(entry | statistics | {name: value.item() for name, value in losses.items()})

    def sync(self) -> None:
        """Wait until all entries are on the disk."""
        self._log.sync()

    def advance(self, done: int, loss: float | None) -> None:
        """Show that `done` iterations are done, and the loss that was read last."""
        if self._silent:
            return
        schedule, progress = self._schedule, self._progress
        epoch = (done - 1) // schedule.per_epoch + 1
        detail = f"epoch {epoch}/{schedule.epochs}" + ("" if loss is None else f"  loss {loss:.3f}")
        progress.advance(schedule.images(done) - progress.done, detail)
        self.beat(
            iteration=done,
            iterations=schedule.last,
            epoch=epoch,
            epochs=schedule.epochs,
            images_per_second=self.images_per_second,
            seconds_left=round(progress.seconds_left),
            loss=loss,
        )
