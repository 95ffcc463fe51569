"""What a call of the workflow does before and after its jobs."""

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

from tood.commands.checks import blocked_problem, writable_problem
from tood.commands.estimate import cost_of
from tood.data.annotations import DataError, ImageFile
from tood.data.conversion import converted_from, require_known
from tood.data.input_sizes import vanishing
from tood.data.manifest import read_manifest
from tood.data.subset import UnknownClass
from tood.data.validation import changed_since_check
from tood.ledger.forms import Options
from tood.ledger.kept_weights import beside
from tood.ledger.plans import save_study
from tood.ledger.status import study_status
from tood.runtime import event_files
from tood.runtime.failures import State
from tood.runtime.files import read_json
from tood.runtime.locks import hold_study
from tood.runtime.preloaded import start_server
from tood.runtime.text import aligned, duration
from tood.study.declarations import ExperimentError
from tood.study.paths import REPOSITORY, StudyPaths
from tood.study.plan import Plan, Training
from tood.workflow.lines import MEASURES, TRAINS

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


def require_scale(plan: Plan) -> None:
    """That a study of this name was not called at another scale, whose results these would be mixed with."""
    paths = StudyPaths(plan.name)
    if not paths.options.is_file():
        return
    before = read_json(paths.options, Options, f"delete {paths.options}").get("scale", plan.study.scale)
    if before != plan.study.scale:
        raise ExperimentError(
            f"--config scale={plan.study.scale}: the study {plan.name!r} was called with scale={before}; "
            f"choose another name, or delete {paths.work} and {paths.results} to use this one"
        )


def require_classes(plan: Plan) -> None:
    """That the data have the classes that a study names; those that were converted by them have."""
    if not (plan.conversion and plan.conversion.classes) or converted_from(plan.data_root) == plan.sources:
        return
    try:
        require_known(plan.conversion)
    except UnknownClass as error:
        raise ExperimentError(f"--config classes: {error}") from None
    except (DataError, OSError):
        return  # the conversion says what is wrong


def begin(plan: Plan, preload: bool) -> ExitStack:
    """Stop before any job that cannot end well; say which study this is; preload what its jobs import.

    Args:
        preload: jobs compute on this machine, as forks of one process.

    Returns:
        the lock of the study, which is held until the process ends

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
    save_study(plan)
    if preload:
        start_server(MODULES)
    return lock


def begin_rehearsal(plan: Plan) -> None:
    """As `begin` for a call that only rehearses, and leaves no trace of its own in the study.

    Raises:
        Held: another call rehearses the study.
    """
    folder = StudyPaths(plan.name).rehearsal
    if problem := writable_problem(folder):
        raise ExperimentError(problem)
    hold_study(folder)


def describe_what_is_left(plan: Plan, records: Collection[Training]) -> str:
    """What of a study is there, and what its other trainings will take.

    Args:
        records: trainings for which records stand.
    """
    statuses = [status for status in study_status(plan) if status.training not in records]
    counts = Counter(status.state for status in statuses)
    lines = []
    if there := ", ".join(f"{counts[state]} {state}" for state in State if counts[state]):
        lines.append(
            f"Trainings that no record replaces: {there} (`tood progress --name {plan.name}` lists them)."
        )
    if not plan.imports:
        left = [status.training for status in statuses if not status.state.finished]
        lines.append(cost_of(plan, left))
    if not (plan.drawing or plan.conversion or plan.data_root.is_dir()):
        lines.append(
            f"The dataset {plan.data_root} is not there: add data_root=PATH if it is elsewhere; "
            f"`tood doctor --scale {plan.scale.name}` says what is needed."
        )
    return "\n".join(lines)


def describe_success(plan: Plan, done: Mapping[str, int], seconds: float) -> str:
    """What a call has done, and where its results are.

    Args:
        done: number of jobs that have ended, by rule.
        seconds: since its start.
    """
    paths = StudyPaths(plan.name)
    trained, measured = (sum(done.get(rule, 0) for rule in rules) for rules in (TRAINS, MEASURES))
    others = sum(done.values()) - trained - measured - done.get("all", 0)
    counts = (
        (trained, "imported" if plan.imports else "trained"),
        (measured, "evaluated"),
        (others, "other job" + "s" * (others != 1)),
    )
    work = ", ".join(f"{number} {what}" for number, what in counts if number)
    lines = [f"{plan.name}: done in {duration(seconds)}: {work}."]
    if done.get("report"):
        places = [
            ("report", paths.report),
            ("tables", paths.tables),
            ("figures", paths.figures),
            ("all values", paths.metrics),
            *(("weights", named) for there, named in _weights(paths) if any(Path().glob(str(there)))),
            ("one run", "tood show RUN"),
        ]
        lines.append(aligned((f"  {what}", where) for what, where in places))
    return "\n".join(lines)


def _weights(paths: StudyPaths) -> Iterator[tuple[Path, Path]]:
    """Where weights may be, as a pattern and as a name: of trainings here, and beside records."""
    yield paths.run("*", "*").model, paths.run("RUN", "K").model
    yield beside(paths.record("*", "*")), beside(paths.record("RUN", "K"))


def require_sizes(plan: Plan) -> None:
    """That checked images are not too thin for the input sizes of this call, which the check may not know."""
    manifest = StudyPaths(plan.name).manifest
    if manifest.is_file():
        thin = [ImageFile(*image) for image in read_manifest(manifest).get("thinnest", {}).values()]
        if problem := vanishing(thin, plan.input_sizes):
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
