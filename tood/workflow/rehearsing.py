"""Rehearses the runs of a study one after another, each in a process of its own, and says what came of it."""

import socket
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from signal import SIGKILL

from tood.data.sample import EVALUATED, TYPICAL, take_sample
from tood.ledger.provenance import digest
from tood.ledger.rehearsal import RehearsalRow, Rehearsed, file_of, in_a_line, read_rehearsed, row_of
from tood.ledger.study_jobs import analysis_job, training_job
from tood.runtime.failures import KILLED
from tood.runtime.files import DamagedFile, write_json
from tood.study.jobs import Execution, RehearsalJob
from tood.study.paths import RunPaths, StudyPaths
from tood.study.plan import Plan

TYPICAL_IMAGES, LARGEST_IMAGES = 400, 64  # of the batches of 16 some 20 and 4 are taken
EVALUATED_IMAGES = 4
_LONGEST_SIDES = [1333, 800]  # where no configuration says the size of a network's input


def rehearse_all(
    plan: Plan, threads: int, program: Sequence[str], analysed: Sequence[str], say: Callable[[str], None]
) -> list[RehearsalRow]:
    """Rehearse each run of a study; one that fails stops no other.

    What an earlier call measured of a run on this machine stands, unless it failed, or what decides it has
    changed.

    Args:
        threads: of the process that computes.
        program: that rehearses one run, the step `rehearse_run`.
        analysed: runs that are analysed, too.
        say: takes a line for each run.
    """
    paths = StudyPaths(plan.name)
    manifest = take_sample(
        plan.data_root,
        plan.splits["train"],
        plan.splits["val"],
        paths.rehearsal / "data",
        size=max(plan.input_sizes, default=_LONGEST_SIDES),
        typical=TYPICAL_IMAGES,
        largest=LARGEST_IMAGES,
        evaluated=min(EVALUATED_IMAGES, plan.study.val_images or EVALUATED_IMAGES),
    )
    write_json(paths.rehearsal / "manifest.json", manifest)
    rows = []
    for number, run in enumerate(plan.runs, 1):
        job = rehearsal_job(plan, run.id, run.id in analysed, manifest["splits"]["val"]["images"])
        execution = plan.training_execution(run.id, threads).model_copy(update={"logger": None})
        measured = _rehearse(job, execution, file_of(paths, run.id), program)
        rows.append(row_of(plan, measured))
        say(f"[{number}/{len(plan.runs)}] {in_a_line(rows[-1])}")
    return rows


def rehearsal_job(plan: Plan, run_id: str, analysed: bool, images: int) -> RehearsalJob:
    """What is tried of a run: its job and its measurement, on the sample, with weights if they are there."""
    paths, seed = StudyPaths(plan.name), plan.seeds_of(run_id)[0]
    training, measuring = training_job(plan, run_id, seed), analysis_job(plan, run_id, seed)
    splits = {"splits": {"train": TYPICAL._asdict(), "val": EVALUATED._asdict()}}
    there = {"manifest": paths.rehearsal / "manifest.json", "settings": training.settings | splits}
    weights = training.weights if training.weights and training.weights.is_file() else None
    model = RunPaths(file_of(paths, run_id).parent).model
    return RehearsalJob(
        training=training.model_copy(update=there | {"weights": weights}),
        measuring=measuring.model_copy(update=there | {"model": model, "images": images}),
        analysed=analysed,
        iterations=plan.study.iterations,
        micro_batch=plan.study.micro_batch,
    )


def _rehearse(job: RehearsalJob, execution: Execution, output: Path, program: Sequence[str]) -> Rehearsed:
    """What is known of a run, measured now if need be."""
    digits = digest({"job": job.argument(), "execution": execution.argument(), "host": socket.gethostname()})
    rehearsed = _known(output, digits)
    if rehearsed and rehearsed.evaluation_seconds is not None:  # which comes last
        return rehearsed
    output.unlink(missing_ok=True)
    output.parent.mkdir(parents=True, exist_ok=True)
    with (log := output.with_name("log.txt")).open("w") as file:
        words = ["--job", job.argument(), "--execution", execution.argument()]
        words += ["--digest", digits, "--output", str(output)]
        ended = subprocess.run([*program, *words], stdout=file, stderr=subprocess.STDOUT)
    rehearsed = _known(output, digits) or Rehearsed(run=job.training.run, digest=digits)
    if ended.returncode and not rehearsed.failed:
        rehearsed.failed = KILLED if ended.returncode == -SIGKILL else f"ended with status {ended.returncode}"
        rehearsed.failed += f"; {log} says more"
        write_json(output, rehearsed.model_dump())
    return rehearsed


def _known(output: Path, digits: str) -> Rehearsed | None:
    """What was measured of the same."""
    try:
        rehearsed = read_rehearsed(output)
    except DamagedFile:
        return None
    return rehearsed if rehearsed and rehearsed.digest == digits else None
