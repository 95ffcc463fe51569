"""How the runs of a study stand, read from the files they leave; nothing here disturbs what is running.

A run's state is one of STATES. `state.json` says most of them; `stale` follows from comparing what a
result carries with what the plan would make now, and a run that has stopped sending heartbeats has failed.
"""

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import cast

from tood.runtime.files import read_json, write_json
from tood.runtime.run_state import HEARTBEAT_TIMEOUT
from tood.runtime.text import did_you_mean
from tood.study.code_digest import training_code
from tood.study.declarations import ExperimentError, Run
from tood.study.paths import ALIGNMENT, AP, RunPaths, StudyPaths
from tood.study.plan import Plan, scale_names
from tood.study.provenance import data_digest, digest, evaluation_digest, is_stale

# Of several seeds, the state that most needs attention, hence the first, stands for the run.
STATES = ("failed", "oom", "diverged", "interrupted", "running", "stale", "pending", "done")
STOPPED = ("failed", "oom", "diverged", "interrupted")
MEASUREMENTS = (AP, ALIGNMENT)


@dataclass(frozen=True)
class Result:
    """What one file measured on a run."""

    metrics: dict[str, float]
    stale: list[str]  # the parts of its identity that differ from what would be measured now


@dataclass(frozen=True)
class Status:
    """How one run and seed stands."""

    run: Run
    seed: int
    folder: Path
    state: str  # one of STATES
    reason: str = ""  # one line: why it stopped or is stale, with a hint
    report: dict = field(default_factory=dict)  # state.json as the trainer wrote it
    provenance: dict = field(default_factory=dict)
    results: dict[str, Result] = field(default_factory=dict)  # by file name
    readings: dict = field(default_factory=dict)  # of Table 6 under other definitions
    training_stale: list[str] = field(default_factory=list)  # as a result's `stale`, of the training

    @property
    def stale(self) -> list[str]:
        """The parts that differ, of the training and of all that was measured on it."""
        parts = [part for result in self.results.values() for part in result.stale]
        return list(dict.fromkeys([*self.training_stale, *parts]))

    @property
    def ap(self) -> float | None:
        """COCO AP in percent; None where there is none, or none is defined."""
        value = self.results[AP].metrics.get("AP") if AP in self.results else None
        return None if value is None or math.isnan(value) else value

    @property
    def settled(self) -> bool:
        """Whether nothing more is going to happen to it by itself."""
        return self.state in ("failed", "oom", "diverged") or (self.state == "done" and bool(self.results))


def save_study(plan: Plan) -> None:
    """Leave the study's options where `load_study` finds them."""
    write_json(StudyPaths(plan.name).options, plan.study.model_dump(mode="json", exclude_none=True))


def load_study(name: str | None = None) -> Plan:
    """The plan of a study as it was last called, or of a scale that never was.

    Args:
        name: of the study; None takes the one called last, or the scale `smoke` if there is none.

    Raises:
        ExperimentError: there is no such study.
    """
    called = {path.parent.name: path for path in Path().glob(str(StudyPaths("*").options))}
    if name is None and called:
        name = max(called, key=lambda study: called[study].stat().st_mtime)
    if name is None or (name not in called and name in scale_names()):
        return Plan({} if name is None else {"scale": name})
    if name not in called:
        known = sorted({*called, *scale_names()})
        raise ExperimentError(
            f"--name {name}: no study of that name was called here; {did_you_mean(name, known)}"
            f"there are {', '.join(known)}"
        )
    return Plan(read_json(called[name]))


def expected_digests(plan: Plan, run_id: str) -> dict[str, str]:
    """The identity that a training of the run would have now."""
    run = plan.all_runs[run_id]
    manifest = StudyPaths(plan.name).manifest
    return {
        "code": training_code(cast(str, run.config), run.options),  # an implemented run has one
        "settings": digest(plan.settings(run_id)),
        "data": data_digest(read_json(manifest)) if manifest.is_file() else "unchecked",
    }


def read_status(plan: Plan, run_id: str, seed: int, now: float | None = None) -> Status:
    """How one run and seed stands.

    Args:
        plan: of the study.
        run_id: of a run that is implemented.
        seed: of its training.
        now: unix seconds, to compare heartbeats with; by default the clock's.
    """
    paths, expected = StudyPaths(plan.name).run(run_id, seed), expected_digests(plan, run_id)
    files, problems = _read(paths)
    report, provenance = files.get(paths.state.name, {}), files.get(paths.provenance.name, {})
    results = {}
    for name in MEASUREMENTS:
        if name in files:
            evaluation = {"evaluation": evaluation_digest(name, plan.study.val_images)}
            metrics = {key: value for key, value in files[name].items() if key != "digests"}
            results[name] = Result(metrics, is_stale(files[name], {**expected, **evaluation}))
    # Weights without provenance are stale; what failed before it had any is just that.
    trained = provenance or report.get("state") == "done"
    state, reason = _reported(report, time.time() if now is None else now)
    if problems:
        state, reason = "failed", problems[0]
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
    if problems or state == "running" or not status.stale:
        return status
    # A failure says nothing about now if its own code or settings have changed since; that old
    # measurements lie beside it does not matter.
    if state in STOPPED and not status.training_stale:
        return status
    reason = f"other {', '.join(status.stale)} than now; call the workflow again to renew it"
    return replace(status, state="stale", reason=reason)


def study_status(plan: Plan, now: float | None = None) -> list[Status]:
    """How every run and seed of a study stands, in the plan's order."""
    return [read_status(plan, run.id, seed, now) for run in plan.runs for seed in plan.seeds]


def most_urgent(states: Iterable[str]) -> str:
    """The state that stands for a run of several seeds."""
    return min(states, key=STATES.index)


def _read(paths: RunPaths) -> tuple[dict[str, dict], list[str]]:
    """The JSON files of a run that are there, and one line for each that cannot be read."""
    files, problems = {}, []
    for path in (paths.state, paths.provenance, paths.ap, paths.alignment, paths.alignment_variants):
        try:
            content = read_json(path)
            if not isinstance(content, dict):
                raise ValueError(f"{path}: holds no keys; delete it and run the workflow again")
            files[path.name] = content
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            problems.append(_one_line(str(error)))
    return files, problems


def _reported(report: Mapping, now: float) -> tuple[str, str]:
    """State and reason by state.json alone, and the clock."""
    state, reason = report.get("state", "pending"), _one_line(report.get("reason") or "")
    if state not in STATES:
        return "failed", f"state.json says {state!r}; delete it and run the workflow again"
    updated = report.get("updated", 0.0)
    if state == "running" and now - updated > HEARTBEAT_TIMEOUT:
        since = datetime.fromtimestamp(updated).astimezone().isoformat(" ", "seconds")
        return "failed", f"no heartbeat since {since}; call the workflow again to go on"
    return state, reason


def _one_line(text: str) -> str:
    return " ".join(text.split())
