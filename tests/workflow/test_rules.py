"""The rules: what reaches a shell is quoted, and they run on the code that they belong to."""

import re
import shutil
import sys
from pathlib import Path

import pytest

from tood.study.plan import Plan

REPOSITORY = Path(__file__).parents[2]
RULES = sorted((REPOSITORY / "workflow" / "rules").glob("*.smk"))
FIELD = re.compile(r"(?<!\{)\{((?:input|output|log|params|resources|wildcards|threads|benchmark)\b[^{}]*)\}")
UNQUOTED = {"resources.launcher"}  # a command with its flags, none of which is from data
PARTS = ("Snakefile", "workflow", "profiles", "experiments", "pyproject.toml", "tood")


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.stem)
def test_every_value_in_a_shell_command_is_quoted(path):
    fields = set(FIELD.findall(path.read_text()))
    assert {field for field in fields if not field.endswith(":q")} <= UNQUOTED
    assert fields or path.stem == "common"


@pytest.mark.parametrize(
    "target",
    [
        "weights/$(touch X).pth",
        "weights/a;touch X;.pth",
        "weights/resnet50 $(touch X).pth",
        "weights/unheard_of.pth",
        "work/logs/../`touch X`.pth",
        "weights/released/$(touch X).pth",
    ],
)
def test_a_target_is_a_name_and_no_command(workspace, target):
    outcome = workspace.run("snakemake", "--cores", "1", target)
    assert outcome.returncode
    assert "MissingRuleException" in outcome.stdout
    assert list(workspace.path.rglob("X")) == []


@pytest.fixture
def clone(tmp_path) -> Path:
    """Another copy of the project, in a folder whose name a shell would read."""
    path = tmp_path / "another clone's {run} $(touch X)"
    path.mkdir()
    for name in PARTS:
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, path / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, path)
    return path


def test_another_package_is_refused(clone, workspace):
    outcome = workspace.run("snakemake", "-n", PYTHONPATH=str(clone))
    assert outcome.returncode
    assert "Traceback" not in outcome.stdout
    message = re.sub(r"\s+", " ", outcome.stdout)
    assert (
        f"the environment {sys.prefix} has `tood` from {clone}, the workflow is that of {REPOSITORY};"
        in message
    )


@pytest.mark.parametrize(
    "program",
    [("snakemake",), pytest.param(("python", "-m", "snakemake"), marks=pytest.mark.slow)],
    ids=" ".join,
)
def test_jobs_run_on_the_code_of_the_rules(clone, workspace, program):
    """Also with another clone's environment."""
    source = clone / "tood/data/synthetic.py"
    source.write_text(source.read_text() + '\nprint("code of", __file__)\n')
    plan = Plan({})
    target = str(plan.data_root / plan.scale.val.annotations)
    outcome = type(workspace)(clone).run_alone(*program, "--cores", "1", target)
    assert outcome.returncode == 0, outcome.stdout
    log = (clone / "work/smoke/logs/generate_data.log").read_text()
    assert f"\npython workflow/step.py generate_data --root {plan.data_root} --drawing " in log
    assert f"code of {source}" in log
    assert list(clone.rglob("X")) == []


def test_the_command_of_another_clone_is_refused(clone, workspace):
    here = type(workspace)(clone)
    outcome = here.run_alone("tood", "runs")
    assert outcome.returncode == 2
    assert outcome.stdout.startswith(
        f"tood: this is the command of {REPOSITORY}, the folder is another clone"
    )
    assert here.run("python", "-m", "tood.cli", "runs").returncode == 0
