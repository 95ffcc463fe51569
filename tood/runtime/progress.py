"""Progress of long steps: a bar in a terminal, plain lines in a log, both with images/s and time left."""

import sys
import time
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Counts images, or anything else, towards a total and shows it on stderr; use as a context manager.

    Args:
        label: start of each line.
        total: number of images in all.
        bar: whether to draw a bar instead of printing lines; None draws one if stderr is a terminal.
        done: number of images counted before the start; the rate leaves them out.
        unit: what is counted.
    """

    def __init__(
        self, label: str, total: int, bar: bool | None = None, done: int = 0, unit: str = "images"
    ) -> None:
        self.label, self.total, self.done, self.before = label, total, done, done
        self.unit = unit
        self.start = self.last_line = time.monotonic()
        self.bar = None
        if sys.stderr.isatty() if bar is None else bar:
            self.bar = RichProgress(
                TextColumn("{task.description}", markup=False),  # which may be a file with brackets
                BarColumn(),
                TextColumn(f"{{task.completed}}/{{task.total}} {unit}  {{task.fields[rate]:.1f}}/s"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[detail]}"),
                console=Console(stderr=True),
            )
            self.task = self.bar.add_task(label, total=total, rate=0.0, detail="")

    def __enter__(self) -> "Progress":
        if self.bar:
            self.bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self.bar:
            self.bar.stop()

    @property
    def rate(self) -> float:
        """Images per second since the start."""
        return (self.done - self.before) / max(time.monotonic() - self.start, 1e-9)

    @property
    def seconds_left(self) -> float:
        """Seconds until the total is reached at this rate."""
        return (self.total - self.done) / max(self.rate, 1e-9)

    def advance(self, images: int, detail: str = "") -> None:
        """Count more images; `detail` is shown too, such as the loss."""
        self.done += images
        if self.bar:
            self.bar.update(self.task, completed=self.done, total=self.total, rate=self.rate, detail=detail)
            return
        now = time.monotonic()
        if now - self.last_line >= SECONDS_BETWEEN_LINES or self.done >= self.total:
            self.last_line = now
            left = timedelta(seconds=round(self.seconds_left))
            print(
                f"{self.label}  {self.done}/{self.total} {self.unit}",
                f"{self.rate:.1f} {self.unit}/s",
                f"{left} left",
                detail,
                sep="  ",
                file=sys.stderr,
                flush=True,
            )
