"""The Slurm profile: what it would ask for, and the whole on a real Slurm where one can be installed."""

import argparse
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import yaml
from snakemake_executor_plugin_slurm.submit_string import get_submit_command
from snakemake_executor_plugin_slurm.utils import set_gres_string
from snakemake_executor_plugin_slurm.validation import validate_slurm_extra

from tood.ledger.study_jobs import training_job
from tood.runtime.failures import StopRequest
from tood.study.jobs import Execution, TrainingJob
from tood.study.options import parse_options
from tood.study.plan import Plan
from tood.study.scales import load_scale
from tood.workflow.stages import PYTHON

REPOSITORY = Path(__file__).parents[2]
SKIPPED = 77
LOOKS = ("evaluate", "evaluate_and_analyse", "figure1")  # rules that look at trained models


def requests(output: str) -> dict[str, dict[str, str]]:
    """Resources of the jobs of a dry run, by rule."""
    jobs = re.findall(r"^rule (\w+):\n(?: .*\n)*? +resources: (.*)$", output, re.MULTILINE)
    return {rule: dict(re.findall(r"(\w+)=([^,]*)", resources)) for rule, resources in jobs}


class Resources(dict):
    """Resources of a job as the executor reads them: as entries and as attributes."""

    __getattr__ = dict.get


class Warned(NamedTuple):
    """The signal that Slurm sends before the time of a job is up."""

    to: str  # empty: to the job's steps, not to the shell of the batch script
    number: signal.Signals
    seconds: int  # before the end

    @classmethod
    def parse(cls, option: str) -> "Warned":
        """As sbatch reads it: `[{R|B}:]SIGNAL[@SECONDS]`, 60 seconds where it says nothing."""
        to, name, seconds = re.fullmatch(r"(?:([RB]+):)?(\w+)(?:@(\d+))?", option).groups()
        return cls(to or "", signal.Signals[f"SIG{name}"], int(seconds or 60))


def submitted(asked: dict[str, str]) -> argparse.Namespace:
    """What Slurm is asked for in the sbatch call that the executor makes of a job's resources.

    An option that is not among these, which are sbatch's, ends the test.
    """
    resources = Resources({key: int(value) if value.isdigit() else value for key, value in asked.items()})
    job = SimpleNamespace(resources=resources, threads=1, name="job", rule=SimpleNamespace(name="job"))
    validate_slurm_extra(job)
    profile = yaml.safe_load((REPOSITORY / "profiles/slurm/profile.yaml").read_text())
    settings = SimpleNamespace(requeue=profile["slurm-requeue"], no_requeue=False, qos=None, reservation=None)
    names = dict(
        run_uuid="id", slurm_logfile="log", comment_str="rule", account="", partition="", workdir="."
    )
    program, *call = shlex.split(get_submit_command(job, names, settings) + set_gres_string(job))
    assert program == "sbatch"
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for flag in ("--parsable", "--requeue"):
        parser.add_argument(flag, action="store_true")
    for option in ("--job-name", "--output", "--export", "--comment", "-D"):
        parser.add_argument(option)
    for option in ("--mem", "--nodes", "--ntasks", "--cpus-per-task"):
        parser.add_argument(option, type=int)
    parser.add_argument("-t", dest="minutes", type=int)
    parser.add_argument("--gpus", type=int, default=0)
    parser.add_argument("--signal", type=Warned.parse)
    return parser.parse_args(call)


def dry_run(workspace, *options: str) -> dict[str, dict[str, str]]:
    call = (
        "snakemake",
        "-n",
        "--cores",
        "all",
        "--profile",
        "slurm",
        "--config",
        "runs=tood_af,paa",
        *options,
    )
    outcome = workspace.run(*call)
    assert outcome.returncode == 0, outcome.stdout
    return requests(outcome.stdout)


def test_gpu_cpu_memory_and_time_are_asked_for_by_rule(workspace):
    (workspace.path / "slurm").symlink_to(REPOSITORY / "slurm")
    asked = dry_run(workspace, "scale=paper")
    calls = {rule: submitted(asked[rule]) for rule in ("check_data", "train", *LOOKS)}
    found = {rule: (c.gpus, c.nodes, c.cpus_per_task, c.mem, c.minutes) for rule, c in calls.items()}
    scale = load_scale("paper")
    trains, looks = (
        (job.gpus, job.nodes, job.threads * job.gpus, job.mem_mb, job.runtime)
        for job in (scale.resources, scale.evaluation)
    )
    assert found == {"train": trains, "check_data": (0, *looks[1:]), **dict.fromkeys(LOOKS, looks)}
    assert trains[0] == looks[0] == 1
    assert all(call.requeue for call in calls.values())


def test_the_trainer_is_warned_before_its_time_is_up(workspace):
    """By a signal to itself, not to the shell around it, which it takes as a request to save and to stop."""
    (workspace.path / "slurm").symlink_to(REPOSITORY / "slurm")
    asked = dry_run(workspace, "scale=paper")
    call = submitted(asked["train"])
    assert call.signal.to == ""
    assert 60 <= call.signal.seconds < 60 * call.minutes
    assert all(submitted(asked[rule]).signal is None for rule in ("check_data", *LOOKS))

    stop, numbers = StopRequest(), (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    try:
        stop.install()
        assert not stop()
        signal.raise_signal(call.signal.number)
        assert stop()
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def test_several_gpus_get_a_process_and_their_cpus_each(workspace):
    (workspace.path / "slurm").symlink_to(REPOSITORY / "slurm")
    one, two = (
        dry_run(workspace, "scale=paper", f"gpus={gpus}", "micro_batch=4")["train"] for gpus in (1, 2)
    )
    assert (submitted(two).gpus, submitted(two).nodes) == (2, 1)
    assert submitted(two).cpus_per_task == 2 * submitted(one).cpus_per_task
    assert "--nproc-per-node 2 " in two["launcher"]


@pytest.mark.parametrize(("device", "gpus"), [("cuda", "1"), ("cpu", "0"), ("auto", "0")])
def test_gpus_are_asked_for_where_the_study_wants_them(workspace, device, gpus):
    (workspace.path / "slurm").symlink_to(REPOSITORY / "slurm")
    assert dry_run(workspace, f"device={device}")["train"]["gpu"] == gpus


@pytest.mark.parametrize(
    ("options", "program", "execution"),
    [
        ((), PYTHON, Execution(device="cpu")),
        (("micro_batch=2",), PYTHON, Execution(device="cpu", micro_batch=2)),
        (
            ("device=cuda", "gpus=2", "micro_batch=4"),
            "python -m torch.distributed.run --nproc-per-node 2 "
            "--signals-to-handle SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 --standalone",
            Execution(device="cuda", micro_batch=4),
        ),
        (
            ("scale=paper",),
            PYTHON,
            Execution(device="cpu", threads=2, workers=4, micro_batch=4),
        ),  # of two cores
    ],
    ids=str,
)
def test_the_command_of_a_training(workspace, options, program, execution):
    """One entry for one process and several; what it computes on reaches the script whole."""
    call = ("snakemake", "-n", "-p", "--cores", "2", "--config", "runs=tood_af", "device=cpu", *options)
    outcome = workspace.run(*call)
    assert outcome.returncode == 0, outcome.stdout
    (command,) = re.findall(r"^Shell command: (.* workflow/step\.py train .*) 2>&1", outcome.stdout, re.M)
    before, _, after = command.partition(" workflow/step.py train ")
    words = shlex.split(after)
    given = dict(zip(words[::2], words[1::2], strict=True))
    assert before == program
    assert Execution.model_validate_json(given["--execution"]) == execution
    study = parse_options(("runs=tood_af", "device=cpu", *options))
    assert TrainingJob.model_validate_json(given["--job"]) == training_job(Plan(study), "tood_af", 0)


def test_gpus_without_a_gpu_are_refused(workspace):
    outcome = workspace.run("snakemake", "-n", "--cores", "1", "--config", "runs=tood_af", "gpus=2")
    assert outcome.returncode == 1
    assert "add device=cuda" in outcome.stdout


@pytest.mark.slow  # two to four minutes
def test_trainings_survive_on_a_real_slurm():
    call = [sys.executable, REPOSITORY / "tests/slurm/run.py"]
    outcome = subprocess.run(call, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if outcome.returncode == SKIPPED:
        pytest.skip(outcome.stdout.strip().removeprefix("skipped: "))
    assert outcome.returncode == 0, outcome.stdout
    assert re.search(r"^PASS", outcome.stdout, re.MULTILINE), outcome.stdout
