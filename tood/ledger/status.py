"""The states of a study's runs, read from their files or records; nothing here disturbs a run.

Most states are in `state.json`. A run is `stale` if its digests differ from
those that the plan expects. A run that is running has failed if no process holds its lock, for one of this
host, or if it has no heartbeat. A run that was not trained here has the state in its record, if it has one.
"""

import functools
import math
import shlex
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from tood.data.conversion import converted_from
from tood.data.manifest import read_manifest
from tood.data.validation import annotations_as_checked
from tood.ledger.curves import by_epoch
from tood.ledger.forms import Measurement, Provenance, Readings
from tood.ledger.kept_weights import beside, kept_weights
from tood.ledger.plans import load_study, recorded_trainings
from tood.ledger.provenance import data_digest, digest, evaluation_digest, is_stale
from tood.ledger.records import Record, drawn_by, read_record, same_annotations
from tood.ledger.studies import studies_with
from tood.ledger.study_jobs import deciding_code
from tood.runtime.failures import KILLED, State
from tood.runtime.files import DamagedFile, read_json
from tood.runtime.locks import is_held
from tood.runtime.run_state import HEARTBEAT_TIMEOUT, StateFile, read_state, silence
from tood.runtime.text import single_line
from tood.study.declarations import ExperimentError, Run, unknown_run
from tood.study.paths import ALIGNMENT, AP, RunPaths, StudyPaths
from tood.study.plan import Plan, Training
from tood.study.variation import typed_text

MEASUREMENTS = (AP, ALIGNMENT)
UNCHECKED = "unchecked"  # in place of the digest of data


@dataclass(frozen=True)
class Result:
    """The content of one file of measurements on a run."""

    metrics: dict[str, float]
    stale: list[str]  # names of the digests that differ from the expected ones


@dataclass(frozen=True)
class Status:
    """The state of one run and seed."""

    run: Run
    seed: int
    folder: Path
    state: State
    reason: str = ""  # one line: why the run stopped or is stale, with a hint
    report: dict = field(default_factory=dict)  # content of state.json
    provenance: dict = field(default_factory=dict)
    results: dict[str, Result] = field(default_factory=dict)  # by file name
    readings: dict = field(default_factory=dict)  # Table 6 under other definitions
    training_stale: list[str] = field(default_factory=list)  # digests of the training that differ
    record: Record | None = None  # that all of this is from; None: from the files in the folder

    @property
    def training(self) -> Training:
        """Of which run and seed it is."""
        return Training(self.run.id, self.seed)

    @property
    def stale(self) -> list[str]:
        """Names of the digests that differ, of the training and of all measurements on it."""
        parts = [part for result in self.results.values() for part in result.stale]
        return list(dict.fromkeys([*self.training_stale, *parts]))

    @property
    def ap(self) -> float | None:
        """COCO AP in percent; None if it was not measured or is not defined."""
        value = self.results[AP].metrics.get("AP") if AP in self.results else None
        return None if value is None or math.isnan(value) else value

    @property
    def epochs(self) -> Sequence[Mapping[str, float | None]]:
        """Losses and positives, as `tood.ledger.curves.by_epoch` gives them."""
        return self.record.epochs if self.record else by_epoch(RunPaths(self.folder).losses)

    @property
    def settled(self) -> bool:
        """Whether the state stays as it is until the workflow is called again."""
        if self.state.finished:
            return bool(self.results)
        return self.state.stopped and self.state != State.INTERRUPTED


def trained_weights(run: str, study: str | None, seed: int | None) -> tuple[Plan, int, Path]:
    """The study and the seed of a run that has weights, and these, perhaps kept beside its record.

    Args:
        run: id.
        study: name; None means the study that was called last.
        seed: of the training; None means the study's first seed.

    Raises:
        ExperimentError: there is no such run or study, or the run has no weights.
    """
    plan = load_study(study)
    if run not in plan.all_runs:
        raise ExperimentError(f"--run {run}: {unknown_run(run, plan.all_runs)}")
    paths, number = StudyPaths(plan.name), plan.seeds[0] if seed is None else seed
    weights = paths.run(run, number).model
    if not (weights.is_file() and paths.manifest.is_file()):
        if kept := kept_weights(paths.record(run, number)):
            return plan, number, kept
        if weights.is_file():
            checked_data(plan)  # raises: without the check the classes of these weights are not known
        others = [name for name in studies_with(run) if _has_weights(StudyPaths(name), run, number)]
        also = f" (there are weights of it in {', '.join(others)}: --name {others[0]})" if others else ""
        call = call_of(plan, runs=run, seeds=number, fresh=True)
        raise ExperimentError(f"--run {run}: {weights} is not there{also}; this trains it:\n{call}")
    return plan, number, weights


def _has_weights(paths: StudyPaths, run: str, seed: int) -> bool:
    here = paths.run(run, seed).model.is_file() and paths.manifest.is_file()
    return here or beside(paths.record(run, seed)).is_file()


def checked_data(plan: Plan) -> dict[str, Any]:
    """What the check of the study's data found.

    Raises:
        ExperimentError: they were not checked here.
    """
    path = StudyPaths(plan.name).manifest
    if not path.is_file():
        raise ExperimentError(
            f"{path}: not there; this checks the data of the study, which writes it:\n{call_of(plan, path)}"
        )
    return read_manifest(path)


def call_of(plan: Plan, target: Path | None = None, /, **changes: object) -> str:
    """The call of the workflow that does a study, or a part of it: a file, or what changed options say."""
    options = plan.study.model_dump(mode="json", exclude_none=True) | changes
    if isinstance(runs := changes.get("runs"), str | tuple | list):
        options["options"] = plan.options_for([runs] if isinstance(runs, str) else runs)
    words = (shlex.quote(f"{key}={_word(key, value)}") for key, value in options.items() if value is not None)
    file = "" if target is None else f" {shlex.quote(str(target))}"
    return f"snakemake{file} --cores all --config {' '.join(words)}"


def _word(key: str, value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return typed_text(value)
    separator = ":" if key in ("train", "val") else ","
    return separator.join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def expected_digests(plan: Plan, run_id: str) -> dict[str, str]:
    """The digests that a training of the run would have now; of data that changed since the check, none."""
    path = StudyPaths(plan.name).manifest
    manifest = read_manifest(path) if path.is_file() else None
    return {
        "code": deciding_code(plan, run_id),
        "settings": digest(plan.settings(run_id)),
        "data": data_digest(manifest) if manifest and _as_checked(plan, manifest) else UNCHECKED,
    }


def read_status(plan: Plan, run_id: str, seed: int, expected: dict[str, str] | None = None) -> Status:
    """The state of one run and seed.

    The files of the run count where it was trained here and nothing that decides it has changed since; else
    its record, the study's own or that of its scale's study, if it is of a training as it would be now and
    the study does not train it afresh; else the files; else the study's own record, as a stale one.

    Args:
        expected: result of `expected_digests`; None asks for it.
    """
    expected = expected_digests(plan, run_id) if expected is None else expected
    files, problems = _read(StudyPaths(plan.name).run(run_id, seed))
    here = _status_of(plan, run_id, seed, files, expected)
    if problems:
        here = replace(here, state=State.FAILED, reason=problems[0])
    fresh = plan.study.fresh and (run_id, seed) in plan.trainings
    if fresh or (here.provenance and here.state.finished):
        return here
    own, *others = (
        _status_of_record(plan, run_id, seed, path, expected) for path in record_paths(plan, run_id, seed)
    )
    for status in (own, *others):
        if status and status.state != State.STALE:
            return status
    return own if own and here.state == State.PENDING else here


def _status_of_record(
    plan: Plan, run_id: str, seed: int, path: Path, expected: dict[str, str]
) -> Status | None:
    """By a record; None if there is none."""
    if (record := read_record(path)) is None:
        return None
    own = path == StudyPaths(plan.name).record(run_id, seed)
    status = _status_of(plan, run_id, seed, record.files, _expected_of(record, expected, plan, own))
    return replace(status, record=record)


def record_paths(plan: Plan, run_id: str, seed: int) -> list[Path]:
    """Where a record of a training may be: the study's own folder, and that of its scale's study."""
    names = dict.fromkeys((plan.name, plan.scale.name))
    return [StudyPaths(name).record(run_id, seed) for name in names]


def _expected_of(record: Record, expected: dict[str, str], plan: Plan, own: bool) -> dict[str, str]:
    """The digests that this record would have if it were made now.

    Where data have not been checked yet, they count as the record's as long as they are drawn by the same, or
    converted from the same, or as their annotation files are the same. Those of the study's `own` record, or
    of the scale's data, may be elsewhere. What was drawn or converted and then edited is neither.
    """
    path = StudyPaths(plan.name).manifest
    here = path.is_file() and Path(read_manifest(path)["root"]) == plan.data_root
    if here and expected["data"] != UNCHECKED:
        return expected
    if plan.drawing:
        same = not here and record.drawn == drawn_by(plan.drawing.model_dump(mode="json"))
    elif plan.conversion:
        same = not here and (record.converted == plan.sources if plan.sources else own)
    else:
        needed = plan.study.data_root is not None and not own
        same = record.drawn is None and same_annotations(record, plan.data_root, plan.splits, needed)
    return expected | {"data": record.provenance["digests"]["data"] if same else UNCHECKED}


def _as_checked(plan: Plan, manifest: Mapping[str, Any]) -> bool:
    """Whether the study's annotations are still those that were checked; absent ones do not matter."""
    files = {name: split.annotations for name, split in plan.splits.items()}
    return annotations_as_checked(manifest, plan.data_root, files) and (
        not plan.sources or converted_from(plan.data_root) == plan.sources
    )


def _status_of(
    plan: Plan, run_id: str, seed: int, files: Mapping[str, dict], expected: dict[str, str]
) -> Status:
    """By the content of files, by their names."""
    paths = StudyPaths(plan.name).run(run_id, seed)
    report, provenance = files.get(paths.state.name, {}), files.get(paths.provenance.name, {})
    results = {}
    for name in MEASUREMENTS:
        if name in files:
            evaluation = {"evaluation": evaluation_digest(name, plan.study.val_images)}
            metrics = {
                key: math.nan if value is None else value  # JSON has no nan
                for key, value in files[name].items()
                if key != "digests"
            }
            results[name] = Result(metrics, is_stale(files[name], {**expected, **evaluation}))
    # Weights without provenance are stale. A training that failed before it wrote any has only failed.
    trained = provenance or State(report.get("state", State.PENDING)).finished
    state, reason = _reported(report, paths)
    status = Status(
        run=plan.all_runs[run_id],
        seed=seed,
        folder=paths.folder,
        state=state,
        reason=reason,
        report=report,
        provenance=provenance,
        results=results,
        readings=files.get(paths.alignment_variants.name, {}) if ALIGNMENT in results else {},
        training_stale=is_stale(provenance, expected) if trained else [],
    )
    if state == State.RUNNING or not status.stale:
        return status
    # A failure counts as long as the code and settings of the training are the same. Old measurements beside
    # it do not matter.
    if state.stopped and not status.training_stale:
        return status
    reason = f"made with other {', '.join(status.stale)} than now; call the workflow again to renew it"
    return replace(status, state=State.STALE, reason=reason)


def study_status(plan: Plan) -> list[Status]:
    """The state of every run and seed of a study, in the plan's order."""
    return _statuses(plan, plan.trainings)


def status_with_records(plan: Plan) -> list[Status]:
    """That of `study_status`, of the trainings of which there is a record, current or not."""
    there = [
        training
        for training in plan.trainings
        if any(path.is_file() for path in record_paths(plan, *training))
    ]
    return _statuses(plan, there)


def known_status(plan: Plan) -> list[Status]:
    """That of `study_status`, and of every other run and seed of which the study has a record."""
    return [*study_status(plan), *_statuses(plan, other_trainings(plan))]


def other_trainings(plan: Plan) -> list[Training]:
    """Every run and seed of which the study has a record and that this call does not name."""
    runs = list(plan.all_runs)
    others = recorded_trainings(plan.name, runs) - set(plan.trainings)
    return sorted(others, key=lambda training: (runs.index(training.run), training.seed))


def _statuses(plan: Plan, trainings: Iterable[Training]) -> list[Status]:
    expected = functools.cache(functools.partial(expected_digests, plan))
    return [read_status(plan, run_id, seed, expected(run_id)) for run_id, seed in trainings]


def most_urgent(states: Iterable[State]) -> State:
    """The state of a run of several seeds."""
    return min(states, key=list(State).index)


def _read(paths: RunPaths) -> tuple[dict[str, dict], list[str]]:
    """The JSON files of a run by name, and one line for each file that cannot be read."""
    files, problems = {}, []
    for path, form in (
        (paths.state, StateFile),
        (paths.provenance, Provenance),
        (paths.ap, Measurement),
        (paths.alignment, Measurement),
        (paths.alignment_variants, Readings),
    ):
        try:
            files[path.name] = read_json(path, form)
        except FileNotFoundError:
            pass
        except (OSError, DamagedFile) as error:
            problems.append(single_line(str(error)))
    return files, problems


def _reported(report: Mapping, paths: RunPaths) -> tuple[State, str]:
    """State and reason according to state.json, the clock and the lock of the run."""
    state = State(report.get("state", State.PENDING))
    if state == State.RUNNING and (ended := _ended(report, paths)):
        return State.FAILED, ended
    return state, single_line(report.get("reason") or "")


def _ended(report: Mapping, paths: RunPaths) -> str:
    """Why a training that reports to be running has ended; empty if it runs."""
    updated = report.get("updated") or 0.0
    if silence(paths.state, updated, time.time()) > HEARTBEAT_TIMEOUT:
        return f"no heartbeat since {moment(updated)}; call the workflow again to resume"
    # A trainer writes how it ended and then frees the lock, so what it wrote is read once more.
    here = report.get("host") == socket.gethostname()
    if here and not is_held(paths.folder) and read_state(paths.state) == report:
        return (
            f"process {report.get('pid', '(unknown)')} ended without a word, last heard of at "
            f"{moment(updated)}; {KILLED}; call the workflow again to resume"
        )
    return ""


def moment(seconds: float) -> str:
    """A time in words."""
    try:
        return datetime.fromtimestamp(seconds).astimezone().isoformat(" ", "seconds")
    except (OverflowError, OSError, ValueError):
        return f"{seconds:g} s"
