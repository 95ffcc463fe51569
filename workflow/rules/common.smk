"""What every stage shares: the validated plan, the folders, and what happens before and after the jobs.

`--config` options are the fields of `tood.study.plan.Study`. RESULTS holds what is kept (metrics, tables,
figures); WORK holds what can be made again (checkpoints, detections, logs).
"""

import json
import subprocess
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger

from tood.study.doctor import (
    blocked_problem,
    environment_problem,
    slurm_problems,
    writable_problem,
)

if problem := environment_problem():  # before an import can fail less clearly
    raise WorkflowError(problem)

from tood.study.code_digest import (
    code_digest,
    import_closure,
    training_code,
    training_files,
)
from tood.study.declarations import ExperimentError, load_tables
from tood.data.validation import changed_since_check
from tood.study.provenance import (
    evaluation_digest,
)
from tood.study.status import read_status, save_study
from tood.study.heartbeat import watch
from tood.study.plan import Plan
from tood.study.study_lock import StudyHeld, hold_study

# Jobs find the environment that Snakemake runs in, also where the PATH does not name it.
shell.prefix(f"set -euo pipefail; export PATH={Path(sys.executable).parent}:$PATH; ")

try:
    PLAN = Plan(config)
    DECLARED_TABLES = load_tables(runs=PLAN.all_runs)
except ExperimentError as error:
    raise WorkflowError(str(error)) from None

RESULTS = f"results/{PLAN.name}"
WORK = f"work/{PLAN.name}"
for folder in (RESULTS, WORK):
    if problem := blocked_problem(Path(folder)):  # before Snakemake looks into them
        raise WorkflowError(problem)
RUN_FOLDER = f"{WORK}/runs/{{run}}/seed{{seed}}"
MANIFEST = f"{WORK}/manifest.json"
RUNS = [run.id for run in PLAN.runs]
CODE_OF = {run.id: training_code(run.config, run.options) for run in PLAN.runs}
# Runs whose alignment of classification and localisation the paper analyses.
ANALYSED = [row.run for row in DECLARED_TABLES["table6"].rows if row.run in RUNS]
FIGURE1 = {
    name: run for name, run in (("ATSS", "atss_af"), ("TOOD", "tood_af")) if run in RUNS
}
EVALUATION = PLAN.scale.evaluation
# Where Slurm runs a training, it is a step of its own, so that Slurm's signals reach the trainer itself and
# neither Snakemake, the shell nor tee, and so that it may span nodes.
STEP = (
    "srun --nodes={resources.nodes} --ntasks={resources.nodes} --cpus-per-task={resources.cpus_per_task} "
    if workflow.remote_exec
    else ""
)


wildcard_constraints:
    run="[a-z0-9_]+",
    seed=r"\d+",


def of_all_runs(pattern, runs=RUNS):
    """The files of every run and seed."""
    return expand(pattern, run=runs, seed=PLAN.seeds)


def asked(resources_of):
    """What a job that computes on trained models asks for: the `resources:` of its rule.

    Args:
        resources_of: gives the `tood.study.plan.Resources` of the job with these wildcards.
    """

    def each(value):
        return lambda wildcards, attempt: value(resources_of(wildcards), attempt)

    return {
        # A local call schedules by it only with `--resources gpu=N`.
        "gpu": each(lambda job, _: job.gpus * job.nodes if PLAN.on_gpu else 0),
        "nodes": each(lambda job, _: job.nodes),
        # `threads` is clipped to the cores of the machine that submits.
        "cpus_per_task": each(lambda job, _: job.threads * job.gpus),
        # A job that is started again may have run out of it.
        "mem_mb": each(lambda job, attempt: job.mem_mb * min(attempt, 2)),
        "runtime": each(lambda job, _: job.runtime),
    }


def settings_of(wildcards):
    """What decides a training, as one JSON argument; a change of it trains again."""
    return json.dumps(PLAN.settings(wildcards.run), sort_keys=True)


def initial_weights(wildcards):
    """The file a backbone starts from; none if it starts at random."""
    if PLAN.weights == "random":
        return []
    return [f"weights/{PLAN.all_runs[wildcards.run].weights}.pth"]


def evaluation_options():
    """Arguments of every script that looks at trained runs, besides which runs."""
    options = f"--device {PLAN.device} --workers {EVALUATION.workers}"
    return options + (
        f" --images {PLAN.study.val_images}" if PLAN.study.val_images else ""
    )


def trainer_of(wildcards):
    """The call that trains: in one process, or in one on each GPU of each node.

    What it names decides how a training is computed, not what comes out. It is a resource and no param, a
    change of which would train again.
    """
    job = PLAN.resources(wildcards.run)
    command = ["python"]
    if PLAN.on_gpu and job.gpus * job.nodes > 1:
        # Slurm announces the end of the time with SIGUSR1.
        signals = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"
        command = [
            f"torchrun --nproc-per-node {job.gpus} --signals-to-handle {signals}"
        ]
        if job.nodes == 1:
            command.append("--standalone")
        else:  # the shell runs on the first of the nodes
            command.append(
                f"--nnodes {job.nodes} --rdzv-backend c10d --rdzv-id $SLURM_JOB_ID"
            )
            command.append("--rdzv-endpoint $(hostname):29400")
    command.append("workflow/scripts/train.py")
    command.append(f"--device {PLAN.device} --workers {job.workers}")
    if job.images_per_gpu:
        command.append(f"--images-per-gpu {job.images_per_gpu}")
    return " ".join(command)


def evaluation_of(result):
    """How a result is measured on a trained run; a change of it measures again."""
    return evaluation_digest(result, PLAN.study.val_images)


def aggregate_command(results):
    """The call that collects metrics and renders tables from whatever is there."""
    return [
        *("python", "workflow/scripts/aggregate.py"),
        *("--study", PLAN.study.model_dump_json(exclude_none=True)),
        *("--complexity", COMPLEXITY, "--results", results),
    ]


def report_command(results, figures):
    """The call that puts the tables and these figures on one page, and names the other figures."""
    absent = [Path(path).stem for path in PICTURES if path not in figures]
    tables = [path for path in TABLES if path.endswith(".md")]
    return [
        *("python", "workflow/scripts/report.py", "--name", PLAN.name),
        *("--tables", *tables, "--figures", *figures, "--absent", *absent),
        *("--output", f"{results}/report.html"),
    ]


def up_to_date(picture):
    """Whether a figure that is there shows its runs as they are now."""
    runs, seeds, source = SHOWN[Path(picture).stem]
    shown = [read_status(PLAN, run, seed) for run in runs for seed in seeds]
    files = [status.folder / source for status in shown]
    if not all(path.is_file() for path in (Path(picture), *files)):
        return False
    drawn = Path(picture).stat().st_mtime
    return all(status.state == "done" for status in shown) and all(
        path.stat().st_mtime <= drawn for path in files
    )


def awaited_trainings():
    """Run and seed of the trainings that were submitted and have not been seen to end."""
    jobs = [job for job in workflow.scheduler.running if job.name == "train"]
    return {(job.wildcards.run, job.wildcards.seed) for job in jobs}


def before_work():
    """Stop before any job that cannot end well, and leave word of which study this is."""
    for folder in (RESULTS, WORK):
        if problem := writable_problem(Path(folder)):
            raise WorkflowError(problem)
    global STUDY_LOCK
    try:
        STUDY_LOCK = hold_study(Path(WORK))
    except StudyHeld as error:
        raise WorkflowError(str(error)) from None
    if changed := changed_since_check(Path(MANIFEST)):
        raise WorkflowError(
            f"{changed} changed after the dataset was checked; remove {MANIFEST} to have it checked again, "
            "and everything trained again on what it holds now"
        )
    save_study(PLAN)
    if not workflow.local_exec:  # the device is in another machine than this one
        for problem in slurm_problems():
            logger.warning(f"This Slurm: {problem}")
        watch(Path(WORK, "runs"), awaited_trainings, logger.warning)
    elif PLAN.device == "cuda":
        look = "from tood.runtime.device import choose_device; choose_device('cuda')"
        found = subprocess.run(
            [sys.executable, "-c", look], capture_output=True, text=True
        )
        if found.returncode:
            raise WorkflowError(found.stderr.strip().splitlines()[-1])


def after_failure():
    """Render tables and report from what is there, with what failed or is missing named.

    Where no training ever started there is nothing to say, and results may be there from elsewhere.
    """
    if not any(Path(WORK).glob("runs/*/*/state.json")):
        return
    render = aggregate_command(RESULTS)
    collect = report_command(RESULTS, list(filter(up_to_date, PICTURES)))
    for command in (render, collect):
        if subprocess.run([sys.executable, *command[1:]], check=False).returncode:
            return  # it has said why
    logger.info(
        f"{RESULTS}/report.html and the tables show what is done, failed and pending; "
        "`tood show RUN` says more of one run."
    )


def announce():
    """Say what this study is, once, where a person reads it."""
    trainings = len(RUNS) * len(PLAN.seeds)
    states = [run.state for run in PLAN.all_runs.values()]
    logger.info(
        f"{PLAN.name}: {len(RUNS)} runs x seeds {list(PLAN.seeds)} = {trainings} trainings, "
        f"{sum(run.epochs for run in PLAN.runs) * len(PLAN.seeds)} epochs. Of the paper's {len(states)} runs "
        f"{states.count('implemented')} are implemented, {states.count('not implemented')} not yet, "
        f"{states.count('quoted')} only quoted (`tood runs`)."
    )


if workflow.is_main_process:
    announce()
