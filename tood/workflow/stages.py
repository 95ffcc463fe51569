"""What the workflow decides: what a study has, what its jobs ask for, and how they are started.

The rules hold Snakemake's syntax, this module what can be tested without it. Read at every workflow start.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from pydantic_core import to_jsonable_python

from tood.data.manifest import read_manifest
from tood.data.seen import file_digest
from tood.data.validation import Split, annotation_digests
from tood.ledger.provenance import digest
from tood.ledger.references import load_references
from tood.ledger.server_scores import load_scores
from tood.ledger.status import Status
from tood.runtime.failures import State
from tood.study.coco import load_archives
from tood.study.declarations import ExperimentError, Table
from tood.study.jobs import Resources
from tood.study.paths import StudyPaths
from tood.study.plan import Plan, Training

# How the shell of a rule starts a script that computes on models
PYTHON = "python -m tood.runtime.preloaded"
SECONDS_OF_WARNING = 120  # before the end of its time, in which a training saves its state
# Of the processes of several nodes, below those that Linux gives to anyone. Jobs on one node differ in it.
_FIRST_PORT, _PORTS = 10_000, 20_000
REHEARSAL_MINUTES = 5  # for a run, on a GPU at the paper's size


# What a study has


def not_recorded(trainings: Collection[Training], runs: Iterable[str] = ("[a-z0-9_]+",)) -> str:
    """The constraint of the wildcard `run` in paths RUN/seedN/... and RUN/seedN.* that leaves some out.

    A rule makes nothing for a training that has a record, so Snakemake finds no way to the missing weights.

    Args:
        trainings: those that have one.
        runs: no others are made.
    """
    some = "|".join(runs)
    left_out = "|".join(f"{run}/seed{seed}" for run, seed in trainings)
    return rf"(?!(?:{left_out})[/.])(?:{some})" if left_out else f"(?:{some})"


def submitted_images(plan: Plan) -> str:
    """Name of the set of the scale's test split, such as "test-dev2017"; empty where it has none."""
    return Path(plan.scale.test.annotations).stem.removeprefix("image_info_") if plan.scale.test else ""


def submissions(plan: Plan, tables: Mapping[str, Table], records: Collection[Training] = ()) -> list[Path]:
    """The files for COCO's server that a call of `test_dev` makes.

    They are of the runs that the call names, or without `runs` of those of Table 5.

    Args:
        records: trainings for which records stand.
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
    trainings = [training for training in plan.trainings if training.run in chosen]
    if bare := [training for training in trainings if training in records]:
        raise ExperimentError(
            f"test_dev: needs the weights of {bare[0].run}, seed {bare[0].seed}, and there is only its "
            "record; add fresh=true to train it"
        )
    return [paths.run(run, seed).submission(images, run) for run, seed in trainings]


def published(plan: Plan) -> str:
    """Digest of the published values and of the server's scores that the study's tables show."""
    references = load_references(plan.all_runs)
    scores = load_scores(plan.name, plan.all_runs)
    return digest(to_jsonable_python({"references": references, "scores": scores}))


def archives(plan: Plan) -> list[str]:
    """The archives of COCO that `snakemake download` fetches; none for data that a rule makes.

    A study that trains nothing needs no images for training.
    """
    if plan.scale.drawing or plan.conversion:
        return []
    unused = set() if "train" in plan.splits else {plan.scale.train.images}
    return [
        name
        for name, archive in load_archives().items()
        if (plan.study.test2017 or not archive.optional) and not unused & set(archive.images)
    ]


def content_of_annotations(plan: Plan) -> dict[str, str]:
    """SHA-256 of the study's own annotation files by split; empty where a rule makes them.

    By it the workflow tells whether to check the data again. Times do not say it: a copy has others, and
    where one lies in the future Snakemake takes every output for outdated.
    """
    if plan.drawing or plan.conversion:
        return {}
    manifest = StudyPaths(plan.name).manifest
    files = {name: split.annotations for name, split in plan.splits.items()}
    return annotation_digests(read_manifest(manifest) if manifest.is_file() else {}, plan.data_root, files)


def content_of_test_images(plan: Plan) -> str:
    """SHA-256 of the file that lists the test images."""
    return file_digest(plan.data_root / cast(Split, plan.scale.test).annotations)


def describe_study(plan: Plan, records: Mapping[Training, Path], statuses: Iterable[Status]) -> str:
    """What the study is, for which of its trainings records stand, and why others do not.

    Args:
        records: result of `recorded`.
        statuses: result of `status_with_records`.
    """
    if plan.imports:
        return _describe_released(plan)
    epochs = sum(plan.schedule(run)[0] for run, _ in plan.trainings)
    same = all(plan.seeds_of(run.id) == plan.seeds for run in plan.runs)
    counts = [len(plan.seeds_of(run.id)) for run in plan.runs]
    span = " to ".join(map(str, sorted({min(counts), max(counts)})))
    seeds = f"seeds {list(plan.seeds)}" if same else f"{span} seeds"
    lines = [
        f"{plan.name}: {len(plan.runs)} runs x {seeds} = {len(plan.trainings)} trainings, {epochs} epochs."
    ]
    if records:
        folders = sorted({path.parents[1].as_posix() for path in records.values()})
        lines.append(
            f"{len(records)} of {len(plan.trainings)} trainings are taken from the records in "
            f"{' and '.join(folders)}; fresh=true trains them all the same."
        )
    stale = [status for status in statuses if status.record and status.state == State.STALE]
    if stale and not plan.study.fresh:
        parts = dict.fromkeys(part for status in stale for part in status.stale)
        lines.append(
            f"{len(stale)} records are stale: made with other {', '.join(parts)} than now; "
            "these trainings are done again."
        )
    return "\n".join(lines)


def _describe_released(plan: Plan) -> str:
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


def requests(of: Callable[[Any], Resources], on_gpu: bool) -> dict[str, Callable[[Any, int], int] | str]:
    """The `resources:` of a rule whose jobs compute on models.

    Args:
        of: what the job with these wildcards asks for.
        on_gpu: whether jobs ask for GPUs.

    Returns:
        functions of a job's wildcards and its attempt, from 1
    """

    def processes(wildcards: Any) -> int:  # on each node
        return of(wildcards).gpus if on_gpu else 1

    wanted: dict[str, Callable[[Any, int], int] | str] = {
        # A local call schedules by it only with `--resources gpu=N`.
        "gpu": lambda wildcards, attempt: of(wildcards).gpus * of(wildcards).nodes if on_gpu else 0,
        "nodes": lambda wildcards, attempt: of(wildcards).nodes,
        # `threads` is clipped to the cores of the machine that submits.
        "cpus_per_task": lambda wildcards, attempt: of(wildcards).threads * processes(wildcards),
        # A job that is started again may have run out of it.
        "mem_mb": lambda wildcards, attempt: of(wildcards).mem_mb * processes(wildcards) * min(attempt, 2),
        "runtime": lambda wildcards, attempt: of(wildcards).runtime,
    }
    # Else the executor would name the model of a profile, with a number of 0.
    return wanted if on_gpu else wanted | {"gpu_model": ""}


def slurm_options(resources: Resources, on_gpu: bool, gpu_model: str | None) -> str:
    """What a training asks of Slurm that the executor has no resource for.

    Args:
        resources: of the training.
        on_gpu: whether it asks for GPUs.
        gpu_model: that the profile names, if it does.
    """
    options = f"--signal=USR1@{SECONDS_OF_WARNING}"
    if on_gpu and resources.nodes > 1:
        # `--gpus`, which the executor asks for, is of all nodes together. Slurm wants a type in both or none.
        options += f" --gpus-per-node={f'{gpu_model}:' if gpu_model else ''}{resources.gpus}"
    return options


def rehearsal_resources(plan: Plan) -> Resources:
    """What a rehearsal asks for: one process with the most that any of its runs has, and time for all."""
    each = [plan.resources(run.id) for run in plan.runs]
    largest = {
        key: max(getattr(resources, key) for resources in each) for key in ("threads", "workers", "mem_mb")
    }
    return Resources(**largest, runtime=max(60, REHEARSAL_MINUTES * len(each)))


def launcher(resources: Resources, on_gpu: bool) -> str:
    """What starts a training script, for the shell: Python, or a launcher of one process on each GPU."""
    if not on_gpu or resources.gpus * resources.nodes == 1:
        return PYTHON
    # Slurm announces the end of the time with SIGUSR1.
    signals = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"
    call = f"python -m tood.runtime.launch --nproc-per-node {resources.gpus} --signals-to-handle {signals} "
    if resources.nodes == 1:
        return call + "--standalone"
    # The shell runs on the first of the nodes.
    return call + (
        f"--nnodes {resources.nodes} --rdzv-backend c10d --rdzv-id $SLURM_JOB_ID "
        f"--rdzv-endpoint $(hostname):$(({_FIRST_PORT} + SLURM_JOB_ID % {_PORTS}))"
    )
