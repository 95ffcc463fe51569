"""Which figures a study has, what each is drawn from, and which of them can be drawn here.

Read at every workflow start.
"""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from tood.ledger.kept_weights import kept_weights
from tood.ledger.status import Status, call_of, other_trainings, read_status
from tood.ledger.study_jobs import figure_job
from tood.report.shown import SWEPT
from tood.runtime.failures import State
from tood.study.claims import load_claims
from tood.study.declarations import Table
from tood.study.jobs import Figure1Job
from tood.study.pages import load_pages
from tood.study.paths import StudyPaths
from tood.study.plan import Plan, Training

FIGURES_1_AND_4 = ("figure1", "figure4")
FOREST = "claims"  # of the claims, see `tood.report.forest`
# Figures of the runs of Table 6, see `tood.analysis.figures.views`
VIEWS = ("distances", "score_iou", "ap_by_iou", "box_kinds")


class Sources(NamedTuple):
    """What a figure is drawn from."""

    trainings: dict[str, list[Training]]  # by their names in the figure
    # A file of the run that changes with what the figure shows; empty: records suffice, which travel.
    file: str = ""
    weights_suffice: bool = False  # else it also needs what was detected with them

    @property
    def all(self) -> list[Training]:
        """Every training that it shows."""
        return [training for several in self.trainings.values() for training in several]


def figures(plan: Plan, tables: Mapping[str, Table]) -> dict[str, Sources]:
    """The figures that the study's runs suffice for, by name.

    A figure from records shows what the tables show: the trainings of this call, and all others that have a
    current record. One that needs weights shows those of this call, unless the call names runs or seeds and
    would replace a picture of more.
    """
    others = [training for training in other_trainings(plan) if read_status(plan, *training).state.finished]
    called = _figures(plan, tables, plan.trainings)
    every = called | _figures(plan, tables, [*plan.trainings, *others])
    some, folder = plan.study.runs or plan.study.seeds, StudyPaths(plan.name).figures
    for together in (FIGURES_1_AND_4, VIEWS):  # one rule draws them all
        if not (some and any((folder / f"{name}.png").is_file() for name in together)):
            every |= {name: called[name] for name in together if name in called}
    return {name: sources for name, sources in every.items() if not sources.file or name in called or some}


def _figures(plan: Plan, tables: Mapping[str, Table], trainings: Iterable[Training]) -> dict[str, Sources]:
    """The figures that these trainings suffice for."""
    seeds: dict[str, list[int]] = {}
    for run, seed in trainings:
        seeds.setdefault(run, []).append(seed)

    def all_seeds(runs: Mapping[str, str]) -> dict[str, list[Training]]:
        return {name: [Training(run, seed) for seed in sorted(seeds[run])] for name, run in runs.items()}

    def rows(table: str, key: str) -> dict[str, list[Training]]:
        return all_seeds({row.key[key]: row.run for row in tables[table].rows if row.run in seeds})

    drawn = {
        (FOREST,): Sources(all_seeds(_claimed(plan, tables, seeds))),
        FIGURES_1_AND_4: Sources(_lowest_seed_of_detectors(seeds), "model.pth", weights_suffice=True),
        VIEWS: Sources(rows("table6", "Method"), "model.pth"),
        # Where nothing is trained, nothing is known of the positives.
        ("positives",): Sources({} if plan.imports else rows("positives", "Anchor assignment")),
        ("sweep_m", "alpha_beta"): Sources(all_seeds(_swept(tables, seeds))),
    }
    return {name: sources for names, sources in drawn.items() for name in names if sources.trainings}


def _claimed(plan: Plan, tables: Mapping[str, Table], trained: Collection[str]) -> dict[str, str]:
    """The runs of the claims of which every run is trained."""
    claims = load_claims(plan.all_runs, tables)
    return {run: run for claim in claims if set(claim.runs) <= set(trained) for run in claim.runs}


def _lowest_seed_of_detectors(seeds: Mapping[str, Collection[int]]) -> dict[str, list[Training]]:
    """Of the detectors that are trained, the lowest seed that all of them have."""
    detectors = {name: run for name, run in load_pages().detectors.items() if run in seeds}
    shared = set.intersection(*(set(seeds[run]) for run in detectors.values())) if detectors else set()
    return {name: [Training(run, min(shared))] for name, run in detectors.items() if shared}


def _swept(tables: Mapping[str, Table], trained: Collection[str]) -> dict[str, str]:
    """The settings of both sweeps; none where one is missing."""
    runs = {row.run: row.run for name in SWEPT for row in tables[name].rows}
    return runs if set(runs) <= set(trained) else {}


def figure1_job(plan: Plan, sources: Sources, records: Mapping[Training, Path]) -> Figure1Job:
    """What decides Figures 1 and 4; arguments as `without_weights`."""
    jobs = {}
    for name, (trained,) in sources.trainings.items():
        kept = kept_weights(records[trained]) if trained in records else None
        job = figure_job(plan, *trained)
        jobs[name] = job.model_copy(update={"model": kept}) if kept else job
    return Figure1Job(detectors=jobs, seed=min(seed for _, seed in sources.all))


def without_weights(
    plan: Plan,
    sources: Mapping[str, Sources],
    records: Mapping[Training, Path],
    statuses: Iterable[Status] = (),
) -> dict[str, str]:
    """The figures that cannot be drawn by this call, and why or what it would take.

    Args:
        sources: its figures, as `figures` gives them.
        records: trainings for which records stand, and these.
        statuses: statuses that are known; others are read.
    """
    known = list(statuses)
    folder = StudyPaths(plan.name).figures
    reasons = {
        name: _why_not(plan, shown, records, known, folder / f"{name}.png")
        for name, shown in sources.items()
        if shown.file
    }
    return {name: why for name, why in reasons.items() if why}


def _why_not(
    plan: Plan, sources: Sources, records: Mapping[Training, Path], statuses: Iterable[Status], picture: Path
) -> str:
    """Why a figure that needs weights cannot be drawn by this call; empty if it can."""
    for status in _statuses(plan, sources, statuses):
        if status.state == State.DIVERGED:
            return (
                f"needs trained weights, and the training of {status.run.id} with seed {status.seed} diverged"
            )
    called = set(plan.trainings)
    if others := [f"{run} with seed {seed}" for run, seed in sources.all if (run, seed) not in called]:
        return f"shows trainings that this call does not name: {', '.join(others)}"
    bare = [records[training] for training in sources.all if training in records]
    if not bare:
        return ""
    # A picture that is there stays: drawn on another machine it might differ in a pixel.
    if (
        sources.weights_suffice
        and all(map(kept_weights, bare))
        and _images_are_here(plan)
        and not up_to_date(picture, plan, sources, statuses)
    ):
        return ""
    runs, seeds = (tuple(dict.fromkeys(part)) for part in zip(*sources.all, strict=True))
    call = call_of(plan, runs=runs, seeds=tuple(sorted(seeds)), fresh=True)
    return f"needs trained weights, which records do not hold; `{call}` trains and draws"


def _images_are_here(plan: Plan) -> bool:
    if plan.conversion:
        return bool(plan.sources)
    return plan.drawing is not None or (plan.data_root / plan.splits["val"].annotations).is_file()


def _statuses(plan: Plan, sources: Sources, statuses: Iterable[Status]) -> list[Status]:
    """Those of the trainings of a figure; only those that are not in `statuses` are read."""
    known = {status.training: status for status in statuses}
    return [known.get(training) or read_status(plan, *training) for training in sources.all]


def up_to_date(picture: Path, plan: Plan, sources: Sources, known: Iterable[Status] = ()) -> bool:
    """Whether a figure is there and shows its runs as they are now.

    Of a run that has a record alone the times say nothing: those of a clone are all of the same moment.

    Args:
        known: statuses that are known; others are read.
    """
    statuses = _statuses(plan, sources, known)
    if not picture.is_file() or not all(status.state.finished for status in statuses):
        return False
    here = [status for status in statuses if not status.record]
    record = StudyPaths(plan.name).record
    shown = [
        status.folder / sources.file if sources.file else record(status.run.id, status.seed)
        for status in here
    ]
    drawn = picture.stat().st_mtime
    return all(path.is_file() and path.stat().st_mtime <= drawn for path in shown)
