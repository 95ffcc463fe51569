"""What a call of the workflow does before and after its jobs."""

import atexit
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

from tood.commands.checks import blocked_problem, writable_problem
from tood.data.conversion import converted_from
from tood.data.input_sizes import vanishing_of
from tood.data.manifest import read_manifest
from tood.data.validation import changed_since_check
from tood.ledger.status import save_study
from tood.runtime import event_files
from tood.runtime.locks import hold_study
from tood.runtime.preloaded import start_server
from tood.study.declarations import ExperimentError
from tood.study.paths import REPOSITORY, StudyPaths
from tood.study.plan import Plan

# What the jobs of a study import
MODULES = (
    "torch",
    "tood.engine.job",
    "tood.evaluation.evaluate",
    "tood.analysis.table6.measurement",
    "tood.analysis.figures.figure1",
)


def pass_on_code() -> None:
    """Let every process that this one starts, jobs among them, import the package that this one imported."""
    others = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys([str(REPOSITORY), *filter(None, others)]))


def require_folders(plan: Plan) -> None:
    """Before Snakemake looks into the study's folders."""
    _refuse(blocked_problem, plan)


def begin(plan: Plan, preload: bool) -> ExitStack:
    """Stop before any job that cannot end well; say which study this is; preload what its jobs import.

    Args:
        preload: jobs compute on this machine, as forks of one process.

    Returns:
        the lock of the study, to be kept while jobs run

    Raises:
        Held: another call works on the study, or on its results from another clone.
    """
    _refuse(writable_problem, plan)
    if plan.study.logger and find_spec(plan.study.logger) is None:
        raise ExperimentError(f"--config {event_files.MISSING}")
    paths = StudyPaths(plan.name)
    # Data that are converted again are checked again, too.
    kept = not plan.conversion or converted_from(plan.data_root) == plan.sources
    if kept and (changed := changed_since_check(paths.manifest, plan.data_root)):
        raise ExperimentError(
            f"{changed} changed after the dataset was checked; remove {paths.manifest} to have it checked "
            "again, and everything trained again on what it holds now"
        )
    _require_times_of_weights(plan)
    lock = hold_study(paths.work, paths.results)
    atexit.register(lock.close)
    save_study(plan)
    if preload:
        start_server(MODULES)
    return lock


def begin_rehearsal(plan: Plan) -> ExitStack:
    """As `begin` for a call that only rehearses, and leaves no trace of its own in the study.

    Raises:
        Held: another call rehearses the study.
    """
    folder = StudyPaths(plan.name).rehearsal
    if problem := writable_problem(folder):
        raise ExperimentError(problem)
    lock = hold_study(folder)
    atexit.register(lock.close)
    return lock


def require_sizes(plan: Plan) -> None:
    """That checked images are not too thin for the input sizes of this call, which the check may not know."""
    manifest = StudyPaths(plan.name).manifest
    if manifest.is_file() and (problem := vanishing_of(read_manifest(manifest), plan.input_sizes)):
        raise ExperimentError(problem)


def _require_times_of_weights(plan: Plan) -> None:
    """Stop where weights would be newer than what is made from them, which Snakemake deletes for that."""
    released = [choice.file.path for choice in plan.choices.values() if choice.file]
    initial = [path for run in plan.runs if (path := plan.initial_weights(run.id))]
    for path in dict.fromkeys([*released, *initial]):
        if path.is_file() and path.stat().st_mtime > time.time() + 1:
            raise ExperimentError(
                f"{path} has a time that lies in the future; `touch {path}` gives it that of now"
            )


def require_device(device: str) -> None:
    """Ask torch whether this machine has the device, in another process, as torch takes seconds to import."""
    if device != "cuda":
        return
    program = "from tood.runtime.device import choose_device; choose_device('cuda')"
    outcome = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    if outcome.returncode:
        raise ExperimentError(outcome.stderr.strip().splitlines()[-1])


def _refuse(problem_of: Callable[[Path], str | None], plan: Plan) -> None:
    paths = StudyPaths(plan.name)
    for folder in (paths.results, paths.work):
        if problem := problem_of(folder):
            raise ExperimentError(problem)
