"""What every stage shares: the validated plan, the folders, and what happens before and after the jobs.

`--config` options are the fields of `tood.study.options.Study`. RESULTS holds what is kept (metrics, tables,
figures); WORK holds what can be made again (checkpoints, detections, logs). `tood.workflow.stages` decides what
jobs ask for; `tood.study.jobs` describes them; `tood.workflow.call` acts before and after them.
"""

import json
import os
import re
import shlex
import sys
import time
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger
from snakemake.settings.types import DeploymentMethod

STARTED = time.time()
# The repository of these rules, wherever links lead to it from. Rules and package are one thing: the code of
# another clone, whose environment may be the active one, must not do this one's jobs.
HOME = Path(workflow.current_basedir.get_path_or_uri(secret_free=True)).resolve().parents[1]
CODE = find_spec("tood")
IMPORTED = Path(CODE.origin).parents[1] if CODE and CODE.origin else None
if IMPORTED is None or IMPORTED.resolve() != HOME:
    raise WorkflowError(
        f"the environment {sys.prefix} has "
        + (f"`tood` from {IMPORTED}" if IMPORTED else "no `tood`")
        + f", the workflow is that of {HOME}; type `make` there, or `unset PYTHONPATH`, `make env` and activate "
        "its .venv"
    )

from tood.commands.checks import environment_problem, slurm_problems

# Before an import can fail less clearly
if problem := environment_problem():
    raise WorkflowError(problem)

from tood.runtime.failures import Held, InputError
from tood.workflow.terminal import take_over

# What is printed; None: as Snakemake does, because the user wants that, or because this is a job of a cluster
TERMINAL = take_over(logger, workflow.output_settings) if workflow.is_main_process else None

from tood.workflow import call
from tood.workflow import stages as study
from tood.study.claims import load_checks, load_claims
from tood.ledger.code_digest import code_digest, import_closure, training_files
from tood.study.declarations import ExperimentError, load_tables
from tood.report.figures import FOREST, VIEWS, figure1_job, figures, up_to_date, without_weights
from tood.workflow.heartbeat import awaited, watch
from tood.report.shown import table_names
from tood.study.options import parse_options
from tood.study.pages import load_pages
from tood.study.paths import COMPLEXITY, StudyPaths, dark_picture
from tood.study.plan import Plan, Training
from tood.study.released import FOLDER as RELEASED
from tood.ledger.study_jobs import analysis_job, import_job, measuring_job, submission_job, training_job
from tood.ledger.standing import analysed_runs, recorded
from tood.ledger.status import other_trainings, status_with_records

call.pass_on_code()
# The image in which jobs run with `--sdm apptainer`, see docs/containers.md
IMAGE = (
    os.environ.get("TOOD_IMAGE")
    if DeploymentMethod.APPTAINER in workflow.deployment_settings.deployment_method
    else None
)
# Jobs find the environment that Snakemake runs in, also where the PATH does not name it. Braces are Snakemake's.
PROGRAMS = shlex.quote(str(Path(sys.executable).parent))
shell.prefix(
    "set -euo pipefail; "
    + (
        ""  # the image has its own
        if IMAGE
        else f"export PATH={PROGRAMS.replace('{', '{{').replace('}', '}}')}:$PATH; "
    )
)


if IMAGE:

    container: IMAGE


try:
    # In `config` Snakemake has read 2024_01 as a number. Words are passed on to the jobs of a cluster as typed.
    PLAN = Plan({**config, **parse_options(workflow.config_settings.config_args or [])})
    DECLARED_TABLES = load_tables(runs=PLAN.all_runs)
    CLAIMS = load_claims(PLAN.all_runs, DECLARED_TABLES)
    CHECKS = load_checks(PLAN.name, PLAN.all_runs)
    PUBLISHED = study.published(PLAN)
    call.require_folders(PLAN)
    call.require_scale(PLAN)
    call.require_classes(PLAN)
    WITH_RECORDS = status_with_records(PLAN)
    RECORDED = recorded(PLAN, DECLARED_TABLES, WITH_RECORDS)
    # Of these there are records, which are shown beside the trainings of this call.
    OTHERS = other_trainings(PLAN)
    NOT_MADE = [*RECORDED, *OTHERS]  # for which no rule makes anything
except InputError as error:
    raise WorkflowError(str(error)) from None

config["captions"] = load_pages().figures  # for report/figure.rst
PATHS = StudyPaths(PLAN.name)
OF_RUN = PATHS.run("{run}", "{seed}")
MANIFEST = PATHS.manifest
RUNS = [run.id for run in PLAN.runs]
ANALYSED = analysed_runs(PLAN, DECLARED_TABLES)
SOURCES = figures(PLAN, DECLARED_TABLES)
# What is there of them stays as it is: this call has no weights of some training that they show.
KEPT = without_weights(PLAN, SOURCES, RECORDED, WITH_RECORDS)
DRAWN = [figure for figure in SOURCES if figure not in KEPT]
# Those of which there is no picture, or one of other trainings
NOT_SHOWN = {
    figure: why
    for figure, why in KEPT.items()
    if not up_to_date(Path(PATHS.figures, f"{figure}.png"), PLAN, SOURCES[figure], WITH_RECORDS)
}
EVALUATION = PLAN.scale.evaluation
REHEARSES = False  # whether the call only tries the runs
# Where Slurm runs a training, it is a step of its own, so that Slurm's signals reach the trainer itself and
# neither Snakemake nor the shell, and so that it may span nodes.
STEP = (
    "srun --nodes={resources.nodes:q} --ntasks={resources.nodes:q} --cpus-per-task={resources.cpus_per_task:q} "
    "--kill-on-bad-exit=1 "
    if workflow.remote_exec
    else ""
)
# How a job measures. It is a resource and no param, a change of which would measure again.
MEASURING = study.requests(lambda wildcards: EVALUATION, PLAN.on_gpu) | {
    "execution": lambda wildcards, threads: PLAN.measuring_execution(threads).argument()
}


wildcard_constraints:
    run="[a-z0-9_]+",
    seed=r"\d+",


def gpu_model(rule):
    """The model of GPU that the profile names for the jobs of a rule; None where it names none."""
    settings = workflow.resource_settings
    own = (settings.overwrite_resources or {}).get(rule) or {}
    model = own.get("gpu_model") or (settings.default_resources or {}).get("gpu_model")
    return getattr(model, "raw", model)


def training_of(wildcards):
    """The training whose files a job makes."""
    return Training(wildcards.run, int(wildcards.seed))


def of_each(pattern, trainings):
    """The files of trainings, given by run and seed."""
    return [str(pattern).format(run=run, seed=seed) for run, seed in trainings]


def records(trainings):
    """The records of trainings: those that stand for them, or those that this study makes."""
    return [str(RECORDED.get(training) or PATHS.record(*training)) for training in trainings]


def reported(kind, name, path):
    """A file that `snakemake --report` shows, under the kind of thing that it is."""
    return report(
        path, caption=f"../report/{kind}.rst", category=f"{kind.capitalize()}s", labels={kind: name}
    )


def picture(figure):
    """The picture of a figure."""
    return f"{PATHS.figures}/{figure}.png"


def figure_files(*figures):
    """The files of figures: pictures, which `snakemake --report` shows, and what is beside each."""
    shown = [reported("figure", figure, picture(figure)) for figure in figures]
    beside = [str(dark_picture(Path(picture(figure)))) for figure in figures]
    others = expand(f"{PATHS.figures}/{{figure}}.{{format}}", figure=figures, format=["pdf", "md"])
    return [*shown, *beside, *others]


def submissions():
    """The files of `test_dev`, if this study can make them."""
    try:
        return study.submissions(PLAN, DECLARED_TABLES, RECORDED)
    except ExperimentError as error:
        raise WorkflowError(str(error)) from None


def before_work():
    """Stop before any job that cannot end well, and watch the jobs of a cluster."""
    global REHEARSES
    jobs = list(workflow.dag.needrun_jobs())
    names = {job.name for job in jobs}
    REHEARSES = "rehearse" in names
    # Otherwise the device is in another machine than this one, or no job computes on it.
    computes = workflow.local_exec and (REHEARSES or any("execution" in job.resources.keys() for job in jobs))
    try:
        if REHEARSES:
            call.begin_rehearsal(PLAN)
        else:
            # What is preloaded here is not in the image.
            call.begin(PLAN, preload=computes and not IMAGE)
            logger.info(f"The log of each job is in {PATHS.logs}.")
            if "check_data" not in names:  # which looks at the sizes itself
                call.require_sizes(PLAN)
        if computes:
            call.require_device(PLAN.device)
    except (InputError, Held) as error:
        raise WorkflowError(str(error)) from None
    if workflow.local_exec:
        return
    if TERMINAL:
        TERMINAL.on_cluster = True
    for problem in slurm_problems():
        logger.warning(f"This Slurm: {problem}")
    watch(PATHS.runs, lambda: awaited(workflow.scheduler.running), logger.warning)


def after_success():
    """Say what was done, how long it took, and where things are."""
    done = Counter(job.name for job in workflow.dag.finished_jobs)
    logger.info(call.describe_success(PLAN, done, time.time() - STARTED))


def after_failure():
    """Say what is done, failed and pending."""
    if REHEARSES:
        logger.error(f"{PATHS.rehearsal}/rehearse.log says which runs failed, and why.")
        return
    # Here, as it needs pandas
    from tood.report.everything import render_what_is_there

    try:
        rendered = render_what_is_there(PLAN, DECLARED_TABLES)
    except (OSError, ValueError) as error:
        # The failure before it is the one to be read.
        logger.error(f"tables and report: {error}")
        return
    if rendered:
        logger.info(
            f"{PATHS.report} and the tables show what is done, failed and pending; "
            "`tood show RUN` says more of one run."
        )


if workflow.is_main_process:
    if TERMINAL:
        TERMINAL.of(PATHS, PLAN.trainings)
    logger.info(study.describe_study(PLAN, RECORDED, WITH_RECORDS))
    if workflow.output_settings.dryrun:
        logger.info(call.describe_what_is_left(PLAN, RECORDED))
