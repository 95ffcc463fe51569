"""What the workflow decides: what jobs ask for, how they are started, and what happens before and after them.

The rules hold Snakemake's syntax, this module what can be tested without it. Read at every workflow start.
"""

import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, cast

from tood.data.validation import Split, changed_since_check
from tood.runtime import event_files
from tood.runtime.locks import FolderLock, hold_study
from tood.runtime.preloaded import start_server
from tood.study.coco import load_archives
from tood.study.declarations import ExperimentError, Table
from tood.study.doctor import blocked_problem, writable_problem
from tood.study.jobs import Figure1Job, Resources, SubmissionJob
from tood.study.paths import AP, COMPLEXITY, StudyPaths
from tood.study.plan import Plan
from tood.study.provenance import digest
from tood.study.references import load_references
from tood.study.server_scores import load_scores
from tood.study.status import FINISHED, read_status, save_study

# The detectors of Figures 1 and 4 by their names in them, the baseline first.
FIGURE1 = {"ATSS": "atss_af", "TOOD": "tood_af"}
# Figures of the runs of Table 6, see `tood.analysis.views`
VIEWS = ("distances", "score_iou", "ap_by_iou", "box_kinds")
# How the shell of a rule starts a script that computes on models
PYTHON = "python -m tood.runtime.preloaded"
_PORT = 29400  # torchrun's own default
# What the jobs of a study import
_MODULES = (
    *("tood.engine.job", "tood.evaluation.evaluate", "tood.analysis.one_pass", "tood.analysis.figure1"),
)


class Sources(NamedTuple):
    """What a figure is drawn from: one file of each of these runs and seeds."""

    runs: dict[str, str]  # by their names in the figure
    seeds: tuple[int, ...]
    file: str  # that changes with what the figure shows


# What a study has


def analysed_runs(plan: Plan, tables: Mapping[str, Table]) -> list[str]:
    """The study's runs in Table 6, whose classification and localisation are compared."""
    ids = {run.id for run in plan.runs}
    return [row.run for row in tables["table6"].rows if row.run in ids]


def figures(plan: Plan, tables: Mapping[str, Table]) -> dict[str, Sources]:
    """The figures that the study's runs suffice for, by name."""
    ids = [run.id for run in plan.runs]
    found: dict[str, Sources] = {}
    if detectors := {name: run for name, run in FIGURE1.items() if run in ids}:
        found |= dict.fromkeys(("figure1", "figure4"), Sources(detectors, plan.seeds[:1], "model.pth"))
    cells = {row.key["Method"]: row.run for row in tables["table6"].rows if row.run in ids}
    if cells:
        found |= dict.fromkeys(VIEWS, Sources(cells, plan.seeds, "model.pth"))
    rows = [row for row in tables["positives"].rows if row.run in ids]
    # Where nothing is trained, nothing is known of the positives.
    if (schemes := {row.key["Anchor assignment"]: row.run for row in rows}) and not plan.imports:
        found["positives"] = Sources(schemes, plan.seeds, "model.pth")
    swept = {row.run: row.run for name in ("table4", "table_m") for row in tables[name].rows}
    if set(swept) <= set(ids):
        found |= dict.fromkeys(("sweep_m", "alpha_beta"), Sources(swept, plan.seeds, AP))
    return found


def figure1_job(plan: Plan, sources: Sources) -> Figure1Job:
    """What decides Figures 1 and 4."""
    (seed,) = sources.seeds
    return Figure1Job(detectors={name: plan.figure_job(run, seed) for name, run in sources.runs.items()})


def submitted_images(plan: Plan) -> str:
    """Name of the set of the scale's test split, such as "test-dev2017"; empty where it has none."""
    return Path(plan.scale.test.annotations).stem.removeprefix("image_info_") if plan.scale.test else ""


def submissions(plan: Plan, tables: Mapping[str, Table]) -> list[Path]:
    """The files for COCO's server that a call of `test_dev` makes.

    They are of the runs that the call names, or without `runs` of those of Table 5.

    Raises:
        ExperimentError: there are no test images, or no such run.
    """
    if plan.scale.test is None:
        raise ExperimentError(
            f"test_dev: scale {plan.scale.name!r} has no split of test images; use --config scale=paper, or "
            "add `test` to the scale"
        )
    for path in plan.scale.test:
        if not (plan.data_root / path).exists():
            raise ExperimentError(
                f"test_dev: {plan.data_root / path} is not there; COCO's test2017.zip holds the images and "
                "image_info_test2017.zip the file that lists them"
            )
    shown = {row.run for row in tables["table5"].rows}
    chosen = [run.id for run in plan.runs if plan.study.runs or run.id in shown]
    if not chosen:
        raise ExperimentError("test_dev: no run of Table 5 can be trained; name others with --config runs=")
    paths, images = StudyPaths(plan.name), submitted_images(plan)
    return [paths.run(run, seed).submission(images, run) for run in chosen for seed in plan.seeds]


def submission_job(plan: Plan, run_id: str, seed: int) -> SubmissionJob:
    """What decides the submission of a run; all test images are in it, whatever `val_images` says."""
    measuring = plan.measuring_job(run_id, seed)  # whose detections come about in the same way
    return SubmissionJob(**measuring.model_dump(exclude={"images"}), test=cast(Split, plan.scale.test))


def published(plan: Plan) -> str:
    """Digest of the published values and of the server's scores that the study's tables show.

    Raises:
        ExperimentError: one of the two files is wrong.
    """
    references = load_references(plan.all_runs)
    scores = load_scores(plan.name, plan.all_runs)
    return digest(
        {
            "references": {run: [one.model_dump() for one in entries] for run, entries in references.items()},
            "scores": {run: one.model_dump() for run, one in scores.items()},
        }
    )


def archives(plan: Plan) -> list[str]:
    """The archives of COCO that `snakemake download` fetches; none for a scale that draws its data.

    A study that trains nothing needs no images for training.
    """
    if plan.drawing:
        return []
    unused = set() if "train" in plan.splits else {plan.scale.train.images}
    return [
        name
        for name, archive in load_archives().items()
        if (plan.study.test2017 or not archive.optional) and not unused & set(archive.images)
    ]


def summary(plan: Plan) -> str:
    """What the study is, in a sentence or two."""
    if plan.imports:
        return _summary_of_released(plan)
    implemented = sum(run.implemented for run in plan.all_runs.values())
    epochs = sum(plan.schedule(run.id)[0] for run in plan.runs) * len(plan.seeds)
    return (
        f"{plan.name}: {len(plan.runs)} runs x seeds {list(plan.seeds)} = {len(plan.runs) * len(plan.seeds)} "
        f"trainings, {epochs} epochs. Of the paper's {len(plan.all_runs)} runs {implemented} are implemented "
        "(`tood runs`)."
    )


def _summary_of_released(plan: Plan) -> str:
    """Which runs have released weights, and what could be had by hand, a line each."""
    without = [run for run, choice in plan.choices.items() if not choice.file]
    lines = [
        f"{plan.name}: released weights of {len(plan.runs)} runs, nothing is trained; {len(without)} runs "
        "have none and stay pending."
    ]
    for run, choice in plan.choices.items():
        taken = f"; {choice.file.file} is taken" if choice.file else ""
        lines += [f"{run}: {remark}{taken}" for remark in choice.remarks if "by hand" in remark]
    return "\n".join(lines)


# What jobs ask for, and how they are started


def requests(of: Callable[[Any], Resources], on_gpu: bool) -> dict[str, Callable[[Any, int], int]]:
    """The `resources:` of a rule whose jobs compute on models.

    Args:
        of: what the job with these wildcards asks for.
        on_gpu: whether jobs ask for GPUs.

    Returns:
        functions of a job's wildcards and its attempt, from 1
    """
    return {
        # A local call schedules by it only with `--resources gpu=N`.
        "gpu": lambda wildcards, attempt: of(wildcards).gpus * of(wildcards).nodes if on_gpu else 0,
        "nodes": lambda wildcards, attempt: of(wildcards).nodes,
        # `threads` is clipped to the cores of the machine that submits.
        "cpus_per_task": lambda wildcards, attempt: of(wildcards).threads * of(wildcards).gpus,
        # A job that is started again may have run out of it.
        "mem_mb": lambda wildcards, attempt: of(wildcards).mem_mb * min(attempt, 2),
        "runtime": lambda wildcards, attempt: of(wildcards).runtime,
    }


def launcher(resources: Resources, on_gpu: bool) -> str:
    """What starts a training script, for the shell: Python, or `torchrun` for one process on each GPU."""
    if not on_gpu or resources.gpus * resources.nodes == 1:
        return PYTHON
    # Slurm announces the end of the time with SIGUSR1.
    signals = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"
    call = f"torchrun --nproc-per-node {resources.gpus} --signals-to-handle {signals} "
    if resources.nodes == 1:
        return call + "--standalone"
    # The shell runs on the first of the nodes.
    return call + (
        f"--nnodes {resources.nodes} --rdzv-backend c10d --rdzv-id $SLURM_JOB_ID "
        f"--rdzv-endpoint $(hostname):{_PORT}"
    )


# Before and after


def require_folders(plan: Plan) -> None:
    """Before Snakemake looks into the study's folders.

    Raises:
        ExperimentError: something else has the name of one of them.
    """
    _refuse(blocked_problem, plan)


def begin(plan: Plan, preload: bool) -> FolderLock:
    """Stop before any job that cannot end well; say which study this is; preload what its jobs import.

    Args:
        plan: the study.
        preload: jobs compute on this machine, as forks of one process.

    Returns:
        the lock of the study, to be kept while jobs run

    Raises:
        ExperimentError: a folder cannot be written, the data is not what was checked, or the package of a
            logger is not installed.
        Held: another call works on the study.
    """
    _refuse(writable_problem, plan)
    if plan.study.logger and find_spec(plan.study.logger) is None:
        raise ExperimentError(f"--config {event_files.MISSING}")
    paths = StudyPaths(plan.name)
    lock = hold_study(paths.work)
    if changed := changed_since_check(paths.manifest):
        raise ExperimentError(
            f"{changed} changed after the dataset was checked; remove {paths.manifest} to have it checked "
            "again, and everything trained again on what it holds now"
        )
    save_study(plan)
    if preload:
        start_server(_MODULES)
    return lock


def require_device(device: str) -> None:
    """Ask torch whether this machine has the device, in another process, as torch takes seconds to import.

    Raises:
        ExperimentError: there is no GPU for "cuda".
    """
    if device != "cuda":
        return
    program = "from tood.runtime.device import choose_device; choose_device('cuda')"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    if found.returncode:
        raise ExperimentError(found.stderr.strip().splitlines()[-1])


def render_what_is_there(plan: Plan, sources: Mapping[str, Sources]) -> bool:
    """Tables and report from what is there, with what failed or is missing named.

    Args:
        plan: the study.
        sources: its figures, as `figures` gives them.

    Returns:
        False where no training ever started: there is nothing to say, and results may be there from elsewhere
    """
    paths = StudyPaths(plan.name)
    if not any(paths.runs.glob("*/*/state.json")):
        return False
    from tood.study.metrics import write_results  # here, as they import pandas
    from tood.study.report import write_report

    write_results(plan, COMPLEXITY)
    pictures = {name: paths.figures / f"{name}.png" for name in sources}
    shown = [name for name, picture in pictures.items() if up_to_date(picture, plan, sources[name])]
    absent = [name for name in sources if name not in shown]
    write_report(plan, [pictures[name] for name in shown], absent)
    return True


def up_to_date(picture: Path, plan: Plan, sources: Sources) -> bool:
    """Whether a figure is there and shows its runs as they are now."""
    statuses = [read_status(plan, run, seed) for run in sources.runs.values() for seed in sources.seeds]
    files = [status.folder / sources.file for status in statuses]
    if not all(path.is_file() for path in (picture, *files)):
        return False
    drawn = picture.stat().st_mtime
    return all(status.state in FINISHED for status in statuses) and all(
        path.stat().st_mtime <= drawn for path in files
    )


def _refuse(problem_of: Callable[[Path], str | None], plan: Plan) -> None:
    paths = StudyPaths(plan.name)
    for folder in (paths.results, paths.work):
        if problem := problem_of(folder):
            raise ExperimentError(problem)
