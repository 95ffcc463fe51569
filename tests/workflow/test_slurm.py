"""The Slurm profile: what it would ask for, and the whole on a real Slurm where one can be installed."""

import argparse
import os
import re
import shlex
import shutil
import signal
import socket
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
from tood.study.jobs import Execution, Resources, TrainingJob
from tood.study.options import parse_options
from tood.study.plan import Plan
from tood.study.scales import load_scale
from tood.workflow.stages import PYTHON, SECONDS_OF_WARNING, launcher

REPOSITORY = Path(__file__).parents[2]
SKIPPED = 77
LOOKS = ("evaluate", "evaluate_and_analyse", "figure1")  # rules that look at trained models


def requests(output: str) -> dict[str, dict[str, str]]:
    """Resources of the jobs of a dry run, by rule."""
    jobs = re.findall(r"^rule (\w+):\n(?: .*\n)*? +resources: (.*)$", output, re.MULTILINE)
    return {rule: dict(re.findall(r"(\w+)=([^,]*)", resources)) for rule, resources in jobs}


class Asked(dict):
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


class Gpus(NamedTuple):
    """So many GPUs of a type; empty: of any."""

    model: str
    number: int

    @classmethod
    def parse(cls, option: str) -> "Gpus":
        """As sbatch reads it: `[TYPE:]NUMBER`."""
        model, _, number = option.rpartition(":")
        return cls(model, int(number))


def submitted(asked: dict[str, str]) -> argparse.Namespace:
    """What Slurm is asked for in the sbatch call that the executor makes of a job's resources.

    An option that is not among these, which are sbatch's, ends the test.
    """
    resources = Asked({key: int(value) if value.isdigit() else value for key, value in asked.items()})
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
    for option in ("--gpus", "--gpus-per-node"):
        parser.add_argument(option, type=Gpus.parse, default=Gpus("", 0))
    parser.add_argument("--signal", type=Warned.parse)
    return parser.parse_args(call)


def dry_run(workspace, *options: str, **environment: str) -> dict[str, dict[str, str]]:
    call = ("snakemake", "-n", "-p", "--cores", "all", "--profile", "slurm", "--config", "runs=tood_af,paa")
    outcome = workspace.run(*call, *options, **environment)
    assert outcome.returncode == 0, outcome.stdout
    return requests(outcome.stdout)


def test_gpu_cpu_memory_and_time_are_asked_for_by_rule(workspace):
    (workspace.path / "slurm").symlink_to(REPOSITORY / "slurm")
    asked = dry_run(workspace, "scale=paper")
    calls = {rule: submitted(asked[rule]) for rule in ("check_data", "train", *LOOKS)}
    found = {rule: (c.gpus.number, c.nodes, c.cpus_per_task, c.mem, c.minutes) for rule, c in calls.items()}
    scale = load_scale("paper")
    trains, looks = (
        (job.gpus, job.nodes, job.threads * job.gpus, job.mem_mb, job.runtime)
        for job in (scale.resources, scale.evaluation)
    )
    assert found == {"train": trains, "check_data": (0, *looks[1:]), **dict.fromkeys(LOOKS, looks)}
    assert trains[0] == looks[0] == 1
    assert all(call.requeue for call in calls.values())
    assert all(call.gpus.model == "" for call in calls.values())


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
    assert (submitted(two).gpus, submitted(two).nodes) == (("", 2), 1)
    assert submitted(two).cpus_per_task == 2 * submitted(one).cpus_per_task
    assert submitted(two).mem == 2 * submitted(one).mem
    assert "--nproc-per-node 2 " in two["launcher"]


@pytest.fixture
def site(workspace):
    """A workspace whose Slurm profile names a type of GPU."""
    profile = workspace.path / "slurm/profile.yaml"
    shutil.copytree(REPOSITORY / "profiles/slurm", profile.parent)
    shipped = profile.read_text()
    profile.write_text(shipped.replace("# gpu_model: a100 ", "gpu_model: a100 "))
    assert profile.read_text() != shipped
    return workspace


def test_only_jobs_with_a_gpu_name_its_type(site):
    rules = ("check_data", "train", *LOOKS)
    with_gpus, without = dry_run(site, "scale=paper"), dry_run(site, "device=cpu")
    found = {rule: submitted(with_gpus[rule]).gpus for rule in rules}
    assert found == {"check_data": ("", 0), **dict.fromkeys(("train", *LOOKS), ("a100", 1))}
    assert {submitted(without[rule]).gpus for rule in rules} == {("", 0)}


@pytest.fixture
def two_nodes(site):
    """The same, with a package of its own, whose scale trains on two nodes with two GPUs each."""
    for part in ("experiments", "tood", "workflow"):
        (site.path / part).unlink(missing_ok=True)
        shutil.copytree(REPOSITORY / part, site.path / part, ignore=shutil.ignore_patterns("__pycache__"))
    scale = site.path / "experiments/scales/paper.yaml"
    shipped = scale.read_text()
    scale.write_text(
        shipped.replace("\nresources: {threads: 8,", "\nresources: {nodes: 2, gpus: 2, threads: 8,")
    )
    assert scale.read_text() != shipped
    return site


@pytest.mark.parametrize("model", ["a100", "h100"])
def test_several_nodes_have_as_many_gpus_each(two_nodes, model):
    """By `--gpus` alone Slurm may give three of one node and one of the other."""
    of_rule = () if model == "a100" else ("--set-resources", f"train:gpu_model={model}")
    asked = dry_run(two_nodes, "scale=paper", *of_rule, PYTHONPATH=str(two_nodes.path))["train"]
    call, each = submitted(asked), load_scale("paper").resources
    assert (call.nodes, call.gpus, call.gpus_per_node) == (2, (model, 4), (model, 2))
    assert (call.cpus_per_task, call.mem) == (2 * each.threads, 2 * each.mem_mb)
    assert call.signal.seconds == SECONDS_OF_WARNING


def test_jobs_that_share_a_node_meet_at_other_ports():
    """The shell of a job reads the launcher, so a shell does here."""
    line, found = launcher(Resources(gpus=2, nodes=2), on_gpu=True), []
    for job in ("4711", "4712", "99999"):
        given = {"SLURM_JOB_ID": job, "PATH": os.environ["PATH"]}
        echo = subprocess.run(["bash", "-c", f"echo {line}"], env=given, capture_output=True, text=True)
        _, _, module, *words = echo.stdout.split()
        options = dict(zip(words[::2], words[1::2], strict=True))
        host, _, port = options["--rdzv-endpoint"].partition(":")
        assert module == "tood.runtime.launch"
        assert (host, options["--rdzv-id"], options["--nnodes"]) == (socket.gethostname(), job, "2")
        assert options["--nproc-per-node"] == "2"
        found.append(int(port))
    assert len(set(found)) == 3
    assert all(1024 < port < 32768 for port in found)  # what Linux gives to any process begins there


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
            "python -m tood.runtime.launch --nproc-per-node 2 "
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
    (command,) = re.findall(r"^Shell command: (.* workflow/step\.py train .*) > ", outcome.stdout, re.M)
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
