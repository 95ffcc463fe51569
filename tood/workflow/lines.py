"""The words for a job of the workflow: its name, what came of it, why it is to be done, how its log ends."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tood.ledger.forms import Measurement
from tood.runtime.files import DamagedFile, read_json
from tood.runtime.run_state import read_state
from tood.runtime.text import aligned
from tood.study.paths import RunPaths, StudyPaths

TRAINS = ("train", "import_released")
MEASURES = ("evaluate", "evaluate_and_analyse")
FOLLOWED = ("rehearse",)  # what these jobs write is what the user has called them for
_NAMES = {"evaluate_and_analyse": "evaluate", "import_released": "import", "figure1": "figures 1 and 4"}
# How a line of a log begins that the user should read although the job has succeeded
_NOTES = ("data: ", "no GPU can be used", "weights: ")
# A line of a log that says how far a job is; libraries write others
_PROGRESS = re.compile(r"\d+/\d+ \w+  .*left|\bof\b.*\bbytes")
_NAMED = 3  # jobs of a rule; more are counted
_WIDEST = 300  # characters of a line of a log
# By the beginning of the reason that Snakemake gives. The first that fits counts.
_WHY = {
    "Forced": "forced",
    "Missing output": "not there yet",
    "Incomplete output": "was interrupted",
    "Params have changed": "other settings, code or data than before",
    "Updated input": "its input is newer",
    "Set of input files": "other input files than before",
    "Input files updated": "its input is made again",
    "Rules with": "asked for",
}


@dataclass(frozen=True)
class Job:
    """A job as Snakemake announces it."""

    rule: str
    wildcards: Mapping[str, str]
    logs: Sequence[Path] = ()
    reason: str = ""
    started: float = 0.0  # Unix seconds; on a cluster when it was submitted

    @property
    def training(self) -> str:
        """Of which run and seed it is; empty if it is of none."""
        has_one = {"run", "seed"} <= set(self.wildcards)
        return f"{self.wildcards['run']} seed {self.wildcards['seed']}" if has_one else ""

    @property
    def label(self) -> str:
        """What it does."""
        name = _NAMES.get(self.rule, self.rule.replace("_", " "))
        return " ".join([name, self.training or " ".join(self.wildcards.values())]).strip()


def outcome(job: Job, study: StudyPaths) -> str:
    """What came of a job on a run, in a few characters; empty for other jobs, or if it cannot be read."""
    if not job.training:
        return ""
    files = study.run(job.wildcards["run"], job.wildcards["seed"])
    if job.rule in MEASURES:
        return _ap(files)
    loss = read_state(files.state).get("loss") if job.rule in TRAINS else None
    return "" if loss is None else f"loss {loss:.3f}"


def _ap(files: RunPaths) -> str:
    try:
        value = read_json(files.ap, Measurement).get("AP")
    except (OSError, DamagedFile):
        return ""
    return "AP n/a" if value is None or math.isnan(value) else f"AP {value:.1f}"


def notes(job: Job) -> list[str]:
    """The lines of its logs that a user should read although the job has succeeded."""
    return [line for path in job.logs for line in text_of(path).splitlines() if line.startswith(_NOTES)]


def last_lines(path: Path, number: int) -> list[str]:
    """The last lines of a log that are not empty."""
    return [line[:_WIDEST] for line in text_of(path).splitlines() if line.strip()][-number:]


def progress(job: Job) -> str:
    """The last line of its logs that says how far a job is; its name if none does."""
    lines = [line for path in job.logs for line in text_of(path).splitlines() if _PROGRESS.search(line)]
    return lines[-1].strip() if lines else job.label


def text_of(path: Path) -> str:
    """The content of a log; empty if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def why(reason: str) -> str:
    """The reason that Snakemake gives for a job, in words that need no knowledge of Snakemake."""
    parts = reason.split("; ")
    return next((words for start, words in _WHY.items() if any(p.startswith(start) for p in parts)), reason)


def planned(jobs: Iterable[Job], order: Iterable[str]) -> str:
    """What a call would do: a line for each rule, with the number of its jobs and why.

    Args:
        jobs: that would run.
        order: names of rules, as they come one after another.
    """
    by_rule: dict[str, list[Job]] = {rule: [] for rule in order}
    for job in jobs:
        by_rule.setdefault(job.rule, []).append(job)
    rows = []
    for rule, members in by_rule.items():
        if members:
            counted = Counter(why(job.reason) for job in members)
            reasons = ", ".join(
                words if len(counted) == 1 else f"{words} ({number})" for words, number in counted.items()
            )
            named = ", ".join(filter(None, (job.training for job in members[:_NAMED])))
            rows.append((len(members), rule, reasons, named if len(members) <= _NAMED else ""))
    total = sum(len(members) for members in by_rule.values())
    return f"{total} jobs:\n" + aligned(rows, right=(0,))
