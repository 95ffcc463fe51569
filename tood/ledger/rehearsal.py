"""What a rehearsal has measured, and what it says of a study: what fits, hours, and settings to use.

A rehearsal tries each run at its full size for a few iterations, on one device (`tood.analysis.rehearsal`).
Nothing here imports torch.
"""

import csv
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel

from tood.runtime.files import atomic_path, read_json
from tood.runtime.text import aligned
from tood.study.paths import StudyPaths
from tood.study.plan import Plan

SLOWER = 0.97  # of the highest rate; what is faster than that by less is no faster
RESERVE = 1.25  # times the images that a training takes, the loading processes should give
_NAME = "rehearsed.json"


class Attempt(BaseModel):
    """A few iterations with so many images of the batch that have activations at a time."""

    micro_batch: int
    peak_memory_mb: float | None = None  # of a GPU its tensors, of a CPU all that the process had resident
    images_per_second: float | None = None
    failed: str = ""  # why it did not fit


class Rehearsed(BaseModel):
    """What is known of one run, so far."""

    run: str
    digest: str = ""  # of what was tried, and how
    failed: str = ""  # why the run could not be tried to its end
    device: str = ""
    on_gpu: bool = False
    memory_mb: float | None = None  # of the device
    threads: int = 1
    workers: int = 0
    weights: str = ""  # what the backbone started from, "imagenet" or "random"
    precision: str = ""
    batch_size: int = 0
    trained_images: int = 0  # of the whole dataset
    attempts: list[Attempt] = []
    # Of the iterations that were timed, with `micro_batch`
    micro_batch: int | None = None
    iterations: int = 0
    images: int = 0
    seconds: float = 0
    images_per_second: float | None = None
    process_memory_mb: float | None = None  # resident in the process that trains, at most
    loaded_per_second: float | None = None  # images, by one loading process
    evaluated_images: int = 0
    evaluation_seconds: float | None = None  # the start of the model included


class RehearsalRow(NamedTuple):
    """What the table says of a run."""

    measured: Rehearsed
    epochs: int
    seeds: int
    hours: float | None  # of one training on this device; without its evaluation

    @property
    def device_hours(self) -> float | None:
        """Of all seeds."""
        return None if self.hours is None else self.hours * self.seeds

    @property
    def workers(self) -> int | None:
        """Loading processes that are enough for this rate."""
        rate, loaded = self.measured.images_per_second, self.measured.loaded_per_second
        return math.ceil(RESERVE * rate / loaded) if rate and loaded else None

    @property
    def memory(self) -> str:
        """Peak memory in GiB by `micro_batch`, such as `1: 3.1, 2: 4.2, 4: out`."""
        return ", ".join(
            f"{attempt.micro_batch}: " + ("out" if attempt.failed else _gib(attempt.peak_memory_mb))
            for attempt in self.measured.attempts
        )


def file_of(paths: StudyPaths, run_id: str) -> Path:
    """Where what is known of a run is."""
    return paths.rehearsal / "runs" / run_id / _NAME


def read_rehearsed(path: Path) -> Rehearsed | None:
    """What is known of a run; None if it was never rehearsed."""
    return Rehearsed(**read_json(path, Rehearsed)) if path.is_file() else None


def all_rehearsed(paths: StudyPaths) -> list[Rehearsed]:
    """What rehearsals of a study have measured to the end."""
    files = sorted(paths.rehearsal.glob(f"runs/*/{_NAME}"))
    rehearsed = [run for path in files if (run := read_rehearsed(path))]
    return [run for run in rehearsed if run.images_per_second and not run.failed]


def fastest(attempts: Iterable[Attempt]) -> Attempt | None:
    """The attempt to go on with: of those that are as fast as the fastest, that with the least memory."""
    fitting = [attempt for attempt in attempts if not attempt.failed and attempt.images_per_second]
    best = max((attempt.images_per_second or 0 for attempt in fitting), default=0)
    return next((attempt for attempt in fitting if (attempt.images_per_second or 0) >= SLOWER * best), None)


def hours_of(measured: Rehearsed, epochs: int, iterations: int | None = None) -> float | None:
    """Hours of a training at the rate that was measured.

    Args:
        iterations: after which the study stops it; None trains the whole schedule.
    """
    if not measured.images_per_second:
        return None
    images = measured.trained_images * epochs
    if iterations is not None:
        images = min(images, iterations * measured.batch_size)
    return images / measured.images_per_second / 3600


def row_of(plan: Plan, measured: Rehearsed) -> RehearsalRow:
    """The row of a run of the study."""
    epochs = plan.schedule(measured.run)[0]
    hours = None if measured.failed else hours_of(measured, epochs, plan.study.iterations)
    return RehearsalRow(measured, epochs, len(plan.seeds_of(measured.run)), hours)


HEADER = (
    *("run", "GiB by micro_batch", "micro_batch", "workers", "images/s", "hours", "seeds", "all hours"),
    "result",
)


def cells_of(row: RehearsalRow) -> tuple[str, ...]:
    """The row as text, column by column of `HEADER`."""
    measured = row.measured
    out = [str(attempt.micro_batch) for attempt in measured.attempts if attempt.failed]
    result = measured.failed or (f"micro_batch={out[0]} does not fit" if out else "ok")
    return (
        measured.run,
        row.memory,
        *(_text(value, "d") for value in (measured.micro_batch, row.workers)),
        _text(measured.images_per_second, ".3g"),
        _hours(row.hours),
        str(row.seeds),
        _hours(row.device_hours),
        result if len(result) <= 120 else result[:117] + "...",
    )


def in_a_line(row: RehearsalRow) -> str:
    """The row alone, while others are still measured."""
    cells = dict(zip(HEADER, cells_of(row), strict=True))
    measured = f"{cells['images/s']} images/s, GiB by micro_batch {row.memory}, " if row.memory else ""
    return f"{row.measured.run}: {measured}{cells['result']}"


def describe(plan: Plan, rows: Sequence[RehearsalRow]) -> str:
    """The table for people, what it rests on, and what to type."""
    lines = [aligned([HEADER, *map(cells_of, rows)], right=range(2, 8)), ""]
    good = [row for row in rows if row.hours is not None]
    if good:
        lines += [_basis(good), ""]
        if any(row.measured.weights == "random" for row in good):
            lines.append("Backbones had random weights where theirs are not there; this changes no time.")
        hours = sum(row.device_hours or 0 for row in good)
        lines.append(f"All {len(good)}: {_hours(hours)} hours of this device, evaluation not included.")
        lines += _calls(plan, good)
    if failed := [row.measured for row in rows if row.measured.failed]:
        lines += ["", f"{len(failed)} of {len(rows)} runs failed:"]
        lines += [f"  {run.run}: {run.failed}" for run in failed]
    return "\n".join(lines)


def _basis(rows: Sequence[RehearsalRow]) -> str:
    measured = rows[0].measured
    tried = sorted({row.measured.iterations for row in rows})
    kind = "tensors on the GPU" if measured.on_gpu else "the whole process"
    many = f"{tried[0]}" if len(tried) == 1 else f"{tried[0]} to {tried[-1]}"
    return (
        f"On {measured.device}, threads {measured.threads}, iterations of each run {many}. Memory is that of "
        f"{kind}{f', of which there are {_gib(measured.memory_mb)} GiB' if measured.memory_mb else ''}."
    )


def _calls(plan: Plan, rows: Sequence[RehearsalRow]) -> list[str]:
    """What to type: runs with the same `micro_batch` in one call each, on one GPU for each run."""
    options = plan.study.model_dump(mode="json", exclude_none=True, exclude={"runs", "micro_batch", "gpus"})
    groups: dict[int | None, list[str]] = {}
    on_gpu = rows[0].measured.on_gpu
    for row in rows:  # a CPU tries no other `micro_batch` than the scale's
        groups.setdefault(row.measured.micro_batch if on_gpu else None, []).append(row.measured.run)
    gpus = "--resources gpu=1 " if on_gpu else ""
    lines = ["", "To train them" + (", with gpu=N on N GPUs, which train N runs at a time:" if gpus else ":")]
    from tood.ledger.status import call_of  # here, as it imports more than `tood plan` needs

    for micro_batch, runs in sorted(groups.items(), key=lambda group: -(group[0] or 0)):
        study = Plan({**options, "runs": runs, "options": plan.options_for(runs)})
        call = call_of(study, **({"micro_batch": micro_batch} if micro_batch else {}))
        lines.append("  " + call.replace("--config", f"{gpus}--config"))
    return lines


def write_table(path: Path, rows: Sequence[RehearsalRow]) -> None:
    """The table as CSV: what was measured, hours and settings, with all their digits."""
    table = [
        {
            "run": row.measured.run,
            "device": row.measured.device,
            "peak_memory_mb": " ".join(
                f"{attempt.micro_batch}:{'out' if attempt.failed else round(attempt.peak_memory_mb or 0)}"
                for attempt in row.measured.attempts
            ),
            "micro_batch": row.measured.micro_batch,
            "workers": row.workers,
            "images_per_second": row.measured.images_per_second,
            **{name: getattr(row, name) for name in ("epochs", "hours", "seeds")},
            "all_hours": row.device_hours,
            "failed": row.measured.failed,
        }
        for row in rows
    ]
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(table[0]) if table else [])
        writer.writeheader()
        writer.writerows(table)


def _text(value: Any, layout: str) -> str:
    return "" if value is None else f"{value:{layout}}"


def _hours(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def _gib(mebibytes: float | None) -> str:
    return "?" if mebibytes is None else f"{mebibytes / 1024:.1f}"
