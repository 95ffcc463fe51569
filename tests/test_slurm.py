"""The Slurm profile: what it would ask for, and the whole on a real Slurm where one can be installed."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
SKIPPED = 77


def requests(output: str) -> dict[str, dict[str, str]]:
    """Resources of the jobs of a dry run, by rule."""
    jobs = re.findall(r"^rule (\w+):\n(?: .*\n)*? +resources: (.*)$", output, re.MULTILINE)
    return {rule: dict(re.findall(r"(\w+)=([^,]*)", resources)) for rule, resources in jobs}


def dry_run(workspace, *options: str) -> dict[str, dict[str, str]]:
    call = ("snakemake", "-n", "--cores", "all", "--profile", "slurm", "--config", "runs=tood_af", *options)
    outcome = workspace.run(*call)
    assert outcome.returncode == 0, outcome.stdout
    return requests(outcome.stdout)


def test_gpu_cpu_memory_and_time_are_asked_for_by_rule(workspace):
    (workspace.path / "slurm").symlink_to(REPOSITORY / "slurm")
    asked = dry_run(workspace, "scale=paper")
    keys = ("gpu", "nodes", "cpus_per_task", "mem_mb", "runtime")
    looks = {"nodes": "1", "cpus_per_task": "4", "mem_mb": "16000", "runtime": "120"}
    expected = {
        "check_data": looks | {"gpu": "0"},
        "train": {"gpu": "1", "nodes": "1", "cpus_per_task": "8", "mem_mb": "32000", "runtime": "2880"},
        **dict.fromkeys(("evaluate", "analyse_alignment", "figure1"), looks | {"gpu": "1"}),
    }
    assert {rule: {key: asked[rule].get(key) for key in keys} for rule in expected} == expected
    assert "--signal=USR1@" in asked["train"]["slurm_extra"]


@pytest.mark.parametrize(("device", "gpus"), [("cuda", "1"), ("cpu", "0"), ("auto", "0")])
def test_gpus_are_asked_for_where_the_study_wants_them(workspace, device, gpus):
    (workspace.path / "slurm").symlink_to(REPOSITORY / "slurm")
    assert dry_run(workspace, f"device={device}")["train"]["gpu"] == gpus


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), "python workflow/scripts/train.py --device cpu --workers 0 --settings"),
        (("images_per_gpu=2",), "train.py --device cpu --workers 0 --images-per-gpu 2 --settings"),
        (
            ("device=cuda", "gpus=2", "images_per_gpu=4"),
            "torchrun --nproc-per-node 2 --signals-to-handle SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 "
            "--standalone workflow/scripts/train.py --device cuda --workers 0 --images-per-gpu 4 --settings",
        ),
    ],
    ids=str,
)
def test_the_command_of_a_training(workspace, options, expected):
    """One entry for one process and several."""
    call = ("snakemake", "-n", "-p", "--cores", "1", "--config", "runs=tood_af", "device=cpu", *options)
    outcome = workspace.run(*call)
    assert outcome.returncode == 0, outcome.stdout
    assert expected in outcome.stdout


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
