"""What a call of the workflow prints: a line for a finished job, and in a terminal one for what runs.

Snakemake itself prints some 25 lines for a job. `take_over` puts another handler in the place of its own,
unless the user asks for Snakemake's output or for another logger. The handler is no logger plugin of the
profile, since Snakemake looks for those before it reads a rule: in an environment without this package it
would print its whole usage in place of what `common.smk` says.
"""

import contextlib
import logging
import re
import shutil
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from tood.runtime.failures import Unbroken
from tood.runtime.text import duration, single_line
from tood.study.paths import StudyPaths
from tood.study.plan import Training
from tood.workflow.lines import (
    FOLLOWED,
    MEASURES,
    TRAINS,
    Job,
    last_lines,
    notes,
    outcome,
    planned,
    progress,
    text_of,
)
from tood.workflow.screen import RED, YELLOW, Screen

_SNAKEMAKES = "DefaultStreamHandler"  # name of the handler whose place is taken
# How messages of Snakemake begin that say nothing to a user of this workflow
_HIDDEN = (
    *("Assuming unrestricted shared", "Building DAG", "Complete log", "Conda environments", "Elapsed time"),
    *("Exiting because a job execution failed", "Reasons:", "Rules with", "Select jobs", "Singularity"),
    *("SLURM run ID", "Some jobs were triggered", "Storing output", "Using shell", "Write-protecting"),
    "Cleaning up SLURM log",
)
_HIDDEN_EVENTS = {
    *("debug_dag", "job_started", "progress", "resources_info", "rulegraph", "shellcmd"),
    "workflow_started",
}
_SUBMITTED = re.compile(r"Job (\d+) has been submitted with SLURM jobid (\S+)")
_RESTARTED = re.compile(r"Trying to restart job (\d+)")
_UNSAID = re.compile(r"\.? ?(Detailed failure reason unavailable|For further error details).*")
_FORGOTTEN = re.compile(
    r"(\d+) jobs have (missing|outdated) provenance.*\nRules with \w+ metadata: (.*)", re.DOTALL
)
_KEPT = "complexity"  # the rule whose output git keeps, so that Snakemake never made it in a new clone
# An error that rules raise: first where, then what, then where once more
_RAISED = re.compile(
    r'WorkflowError in file "[^"]*/workflow/rules/[^"]*", line \d+:\n(.*?)(?:\n  File .*)?', re.S
)
_SECONDS_BETWEEN_UPDATES = 1.0
_OF_SLURM = ("slurmstepd", "srun")
_SHOWN_FAILURES, _LINES_OF_A_FAILURE = 3, 15
_NARROWEST = 15  # characters, such as of "figures 1 and 4"


def take_over(logger: logging.Logger, settings: Any) -> "Terminal | None":
    """Print this module's lines in place of Snakemake's.

    Args:
        logger: Snakemake's.
        settings: Snakemake's `OutputSettings`.

    Returns:
        None where Snakemake's own output, or another logger, is wanted
    """
    theirs = next((handler for handler in logger.handlers if handler.name == _SNAKEMAKES), None)
    if not isinstance(theirs, logging.StreamHandler):
        return None
    stream = theirs.stream
    if settings.verbose or settings.printshellcmds or settings.debug_dag:
        theirs.stream = Unbroken(stream)
        if settings.verbose:
            logger.addHandler(Logs(theirs.stream))
        return None
    quiet = {each.name for each in settings.quiet or ()} & {"ALL", "PROGRESS", "RULES"}
    ours = Terminal(Screen(stream, not getattr(theirs, "nocolor", True)), settings.dryrun, bool(quiet))
    logger.removeHandler(theirs)
    logger.addHandler(ours)
    return ours


class Logs(logging.Handler):
    """Writes the logs of jobs as they end.

    Args:
        stream: where to.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._logs: dict[int, list[str]] = {}

    def emit(self, record: Any) -> None:
        """Write the logs of a job that a message calls finished or failed."""
        event = getattr(record, "event", None)
        if event == "job_info":
            self._logs[record.jobid] = record.log
        elif event in ("job_finished", "job_error"):
            number = record.job_id if event == "job_finished" else record.jobid
            for path in self._logs.get(number, ()):
                self._stream.write(f"{path}:\n{text_of(Path(path))}\n")


class Terminal(logging.Handler):
    """Writes what the user of a workflow should read.

    Args:
        screen: where to.
        dry: whether jobs are only announced.
        quiet: whether nothing is said of jobs that run or have succeeded.
    """

    def __init__(self, screen: Screen, dry: bool = False, quiet: bool = False) -> None:
        super().__init__()
        self.study: StudyPaths | None = None
        self.width = 0  # of the column of labels
        self.on_cluster = False  # a job may be in a queue, so that each of its ends is news
        self._screen, self._dry, self._quiet = screen, dry, quiet
        self._jobs: dict[int, Job] = {}
        self._running: dict[int, Job] = {}
        self._failed: dict[int, tuple[Job, list[Path]]] = {}  # with the cluster's own logs
        self._begun: dict[str, float] = {}  # trainings whose line comes with their evaluation
        self._stats: Mapping[str, int] = {}  # jobs of each rule
        self._counted: tuple[str, ...] = MEASURES
        self._done = 0
        self._stopped = False  # by the user
        self._noted: set[str] = set()
        self._offsets: dict[Path, int] = {}  # bytes that were printed of logs that are followed
        self._closing = threading.Event()
        self._ticker: threading.Thread | None = None

    def of(self, study: StudyPaths, trainings: Iterable[Training]) -> None:
        """Say whose jobs these are, as soon as it is known."""
        self.study = study
        self.width = max([_NARROWEST, *(len(f"{run} seed {seed}") for run, seed in trainings)])

    # What Snakemake says

    def emit(self, record: logging.LogRecord) -> None:
        """Print what of a message is for the user."""
        try:
            event = getattr(record, "event", None)
            if event in _HIDDEN_EVENTS:
                return
            named = getattr(self, f"_on_{event}", None) if event else None
            (named or self._on_message)(record)
        except Exception:
            self.handleError(record)

    def _on_run_info(self, record: Any) -> None:
        self._stats = record.stats
        self._counted = MEASURES if any(rule in self._stats for rule in MEASURES) else TRAINS

    def _on_job_info(self, record: Any) -> None:
        if not record.shellcmd:  # it has only input
            return
        logs = [Path(path) for path in record.log]
        job = Job(record.rule_name, dict(record.wildcards), logs, record.reason, record.created)
        self._jobs[record.jobid] = self._running[record.jobid] = job
        for path in logs:
            self._offsets.pop(path, None)
        if self._ticker is None and not (self._dry or self._quiet):
            self._ticker = threading.Thread(target=self._tick, name="terminal", daemon=True)
            self._ticker.start()

    def _on_job_finished(self, record: Any) -> None:
        if (job := self._running.pop(record.job_id, None)) is None:
            return
        self._failed.pop(record.job_id, None)
        if self._quiet:
            return
        self._follow(job)
        for note in notes(job):
            if note not in self._noted:
                self._noted.add(note)
                self._screen.print(note)
        counts = job.rule in self._counted
        self._done += counts
        if job.rule in TRAINS and not counts and not self.on_cluster:
            self._begun[job.training] = job.started
            return
        took = record.created - self._begun.pop(job.training, job.started)
        label = job.training if job.rule in MEASURES else job.label
        result = outcome(job, self.study) if self.study else ""
        result = result or ("done" if self.on_cluster else "")
        time = "" if self.on_cluster else duration(took)
        count = f"{self._done}/{self._total}" if counts else ""
        self._screen.print(f"{label:<{self.width}}  {result:<10}  {time:>8}  {count}".rstrip())

    def _on_job_error(self, record: Any) -> None:
        job = self._running.pop(record.jobid, None) or self._jobs.get(record.jobid)
        job = job or Job(record.rule_name, {})
        self._follow(job)
        theirs = [Path(path) for path in record.log if Path(path) not in job.logs]
        if self._stopped:
            self._say_of(job, "stopped")
            return
        message = _UNSAID.sub("", single_line(record.rule_msg or ""))
        self._failed[record.jobid] = (job, theirs)
        where = f", see {job.logs[0]}" if job.logs else ""
        self._say_of(job, f"failed{where}" + (f" ({message})" if message else ""), RED)

    def _on_error(self, record: Any) -> None:
        """An exception; those of failed jobs come with a message of their own."""
        text = record.getMessage()
        if "CalledProcessError" in text or "At least one job did not complete" in text:
            return
        if raised := _RAISED.fullmatch(text):
            text = raised[1]
        self._screen.print(text, RED)

    def _on_message(self, record: logging.LogRecord) -> None:
        text = record.getMessage() if record.msg else ""
        if not text or text.startswith(_HIDDEN):
            return
        if submitted := _SUBMITTED.match(text):
            if (job := self._jobs.get(int(submitted[1]))) and not self._quiet:
                self._say_of(job, f"submitted: Slurm job {submitted[2]}")
        elif restarted := _RESTARTED.match(text):
            if failed := self._failed.pop(int(restarted[1]), None):
                self._say_of(failed[0], "is started again")
        elif forgotten := _FORGOTTEN.match(text):
            number = int(forgotten[1]) - (_KEPT in forgotten[3].split())
            if number:
                self._screen.print(_forgotten(number, forgotten[2]))
        elif text.startswith("This was a dry-run"):
            self._screen.print(planned(self._jobs.values(), self._stats))
            self._screen.print("This was a dry run: nothing was done. `snakemake -n -p` prints every job.")
        elif text.startswith("Terminating processes on user request"):
            self._stopped = True
            self._screen.print("Stopping the jobs. The same command continues where they are.")
        elif text.startswith("Nothing to be done") and self.study and self.study.report.is_file():
            self._screen.print(f"{text} The report is {self.study.report}")
        elif record.levelno >= logging.WARNING:
            self._screen.print(text, RED if record.levelno >= logging.ERROR else YELLOW)
        else:
            self._screen.print(text)

    def _say_of(self, job: Job, text: str, color: int = 0) -> None:
        self._screen.print(f"{job.label:<{self.width}}  {text}", color)

    @property
    def _total(self) -> int:
        return sum(self._stats.get(rule, 0) for rule in self._counted)

    # What the logs say

    def _tick(self) -> None:
        """Follow the logs of jobs until the end."""
        while not self._closing.wait(_SECONDS_BETWEEN_UPDATES):
            with self._locked():
                for job in self._running.values():
                    self._follow(job)
                if self._screen.live and not self._closing.is_set():
                    self._screen.keep(self._of_now())

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self.acquire()
        try:
            yield
        finally:
            self.release()

    def _of_now(self) -> str:
        """What runs, in one line of the terminal: the last line of the log that was written last."""
        jobs = [job for job in self._running.values() if job.rule not in FOLLOWED]
        if not jobs:
            return ""
        newest = max(jobs, key=lambda job: max(map(_written, job.logs), default=0.0))
        more = f"  (and {len(jobs) - 1} more)" if len(jobs) > 1 else ""
        count = f"{self._done}/{self._total}  " if self._total else ""
        columns = shutil.get_terminal_size().columns - 1
        return f"{count}{progress(newest)}"[: max(columns - len(more), 0)] + more[:columns]

    def _follow(self, job: Job) -> None:
        """Print what a job that is followed has written since the last time."""
        for path in job.logs if job.rule in FOLLOWED else ():
            with contextlib.suppress(OSError), path.open("rb") as file:
                file.seek(self._offsets.get(path, 0))
                whole, newline, _ = file.read().rpartition(b"\n")
                self._offsets[path] = self._offsets.get(path, 0) + len(whole) + len(newline)
                if newline:
                    self._screen.print(whole.decode(errors="replace"))

    def close(self) -> None:
        """Print how the logs of failed jobs end, which is then the last that is read."""
        self._closing.set()
        with self._locked():
            self._screen.keep("")
            failures, self._failed = list(self._failed.values()), {}
            for number, (job, theirs) in enumerate(failures):
                self._print_failure(job, theirs, _LINES_OF_A_FAILURE if number < _SHOWN_FAILURES else 1)
        super().close()

    def _print_failure(self, job: Job, theirs: list[Path], number: int) -> None:
        self._screen.print(f"\n{job.label} failed", RED)
        own = [] if job.rule in FOLLOWED else job.logs  # of those all was printed
        written = any(last_lines(path, 1) for path in own)
        for path in (*theirs, *own):
            lines = last_lines(path, number)
            if path in theirs and written:  # then Slurm's log matters only for what Slurm has done
                lines = [line for line in lines if line.startswith(_OF_SLURM)]
                if not lines:
                    continue
            self._screen.print(f"{path} ends with:" if lines else f"{path}: it is not there, or empty")
            for line in lines:
                self._screen.print(f"    {line}")


def _forgotten(number: int, what: str) -> str:
    """Where Snakemake has no notes of finished jobs, as after a copy of results without `.snakemake`."""
    they = "has no notes" if what == "missing" else "has only old notes"
    jobs = "1 finished job" if number == 1 else f"{number} finished jobs"
    return (
        f"Snakemake {they} on {jobs} (folder .snakemake), as after results were moved or "
        "copied here. Their files are used as they are. Tables mark as stale what was made with other code, "
        "settings or data than the present ones; `--forcerun train` makes it again."
    )


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
