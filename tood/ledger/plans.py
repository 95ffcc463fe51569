"""The plan of a study as files: its options, which calls of the workflow and rendering leave."""

from collections.abc import Container, Iterable, Mapping
from typing import Any

from tood.ledger.forms import Options
from tood.ledger.studies import called_studies, recorded_studies
from tood.runtime.files import DamagedFile, read_json, write_json
from tood.runtime.text import there_are
from tood.study.declarations import ExperimentError, load_runs, select_runs
from tood.study.options import OF_A_CALL
from tood.study.paths import StudyPaths
from tood.study.plan import Plan, Training
from tood.study.scales import scale_names


def save_study(plan: Plan) -> None:
    """Write the options of a call of the workflow to the file that `load_study` reads."""
    write_json(StudyPaths(plan.name).options, plan.study.model_dump(mode="json", exclude_none=True))


def declare_study(name: str) -> None:
    """Write what makes a study what it is beside its records, which can then be read where it never ran.

    It is what the workflow was called with last. A call of fewer runs, or of the same data at another place,
    leaves what is there. The studies of scales need no declaration.
    """
    paths = StudyPaths(name)
    if name in scale_names() or not paths.options.is_file():
        return
    called = read_json(paths.options, Options)
    options = {name: value for name, value in called.items() if name not in OF_A_CALL}
    if not (paths.declaration.is_file() and _part_of(options, read_json(paths.declaration, Options))):
        write_json(paths.declaration, options)


def _part_of(options: Mapping[str, Any], declared: Mapping[str, Any]) -> bool:
    """Whether these are the declared options with fewer runs, or with the data at another place."""
    apart = {"runs", "data_root"}
    if any(options.get(name) != declared.get(name) for name in {*options, *declared} - apart):
        return False
    if options.get("runs") == declared.get("runs"):
        return True
    try:
        ours, theirs = ({run.id for run in Plan(each).runs} for each in (options, declared))
    except ExperimentError:  # a run that there is no more
        return False
    return ours < theirs


def load_study(name: str | None = None) -> Plan:
    """The plan of a study as it was last called, of the records of one, or of a scale that was never called.

    Args:
        name: name of the study; None takes the study that was called last, or the scale `smoke`.
    """
    called = called_studies()
    if name is None and called:
        name = next(iter(called))
    if name is None or (name not in called and name in scale_names()):
        return Plan({} if name is None else {"scale": name})
    recorded = recorded_studies()
    if name not in {**called, **recorded}:
        known = sorted({*called, *recorded, *scale_names()})
        raise ExperimentError(
            f"--name {name}: no study of that name was called here; {there_are(name, known)}"
        )
    path = called.get(name) or recorded[name]
    hint = f"delete {path}, and call the workflow again with the options of the study"
    options = read_json(path, Options, hint)
    try:
        return Plan(options if name in called else options | _trained(name, options.get("runs")))
    except (ExperimentError, TypeError) as error:  # a value may have any type
        raise DamagedFile(f"{path}: {error}; if that is not what you wrote, {hint}") from error


def recorded_trainings(study: str, runs: Container[str]) -> set[Training]:
    """Every training of these runs of which a study has a record; files of other names are passed over."""
    paths = StudyPaths(study).records.glob("*/seed*.json")
    there = [(path.parent.name, path.stem.removeprefix("seed")) for path in paths]
    return {Training(run, int(seed)) for run, seed in there if run in runs and seed.isdecimal()}


def _trained(name: str, first: Iterable[str] | None) -> dict[str, list]:
    """The runs and the seeds of a study that have records, as options.

    Args:
        first: runs and tables whose runs come first, in this order, as methods are compared with the first.
    """
    declared = load_runs()
    trainings = recorded_trainings(name, declared)
    if not trainings:
        return {}
    runs = {training.run for training in trainings}
    order = [run.id for run in select_runs(first, declared) if run.id in runs] if first else []
    seeds = {training.seed for training in trainings}
    return {"runs": [*order, *sorted(runs - set(order))], "seeds": sorted(seeds)}
