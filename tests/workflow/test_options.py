"""What is typed after `--config` arrives in the workflow as typed, and as the `tood` command reads it."""

import json

import pytest

from tood.study.options import parse_options, parse_study

# The rules of the repository, and the options that they were given
PROBE = """
include: "workflow/rules/common.smk"
print("options:" + PLAN.study.model_dump_json())
rule all:
    input: "pyproject.toml"
"""


@pytest.fixture
def probed(workspace):
    """The options that a call of the workflow has."""
    (workspace.path / "probe.smk").write_text(PROBE)

    def call(*arguments: str) -> dict:
        outcome = workspace.run("snakemake", "-n", "--snakefile", "probe.smk", *arguments)
        assert outcome.returncode == 0, outcome.stdout
        (line,) = (line for line in outcome.stdout.splitlines() if line.startswith("options:"))
        return json.loads(line.removeprefix("options:"))

    return call


@pytest.mark.parametrize(
    "words",
    [
        ["name=2024_01", "data_root=3.10", "train=12:30", "val=1e3:0x10", "seeds=01", "image_size=64,48"],
        ["name=3.10", "data_root=my data", "seeds=0,1", "runs=[atss_af, tood_af]", "schedule=1e1", "lr=.5"],
        [
            "name=yes",
            "data_root=/data/größe/图",
            "seeds=010",
            "fresh=yes",
            "image_size=64x48",
            "iterations=010",
        ],
        ["name=null", "data_root=a: b", "runs=", "fresh=on", "test2017=False", "batch_size=4"],
        ["name='1e3'", 'data_root="2024-01-01"', "train=-1:- 2", "val=~:on"],
    ],
)
def test_workflow_and_command_read_the_same(probed, words):
    expected = parse_study(parse_options(words))
    assert probed("--config", *words) == json.loads(expected.model_dump_json())


def test_a_file_of_options(probed, workspace):
    (workspace.path / "options.yaml").write_text('name: "2024_01"\nseeds: [0, 1]\nlr: 0.5\n')
    given = probed("--configfile", "options.yaml", "--config", "iterations=7")
    assert (given["name"], given["seeds"], given["lr"], given["iterations"]) == ("2024_01", [0, 1], 0.5, 7)


def test_a_name_that_yaml_retyped(workspace):
    (workspace.path / "options.yaml").write_text("name: 2024_01\n")
    outcome = workspace.run("snakemake", "-n", "--configfile", "options.yaml")
    assert outcome.returncode
    assert (
        "--config name=202401: YAML reads it as int, not as text; in a file put it in quotes"
        in outcome.stdout
    )
    assert "Traceback" not in outcome.stdout


@pytest.mark.parametrize(
    "word", ["data_root=/data/{x}", "data_root=/data/$(touch X)", "schedule=inf", "seeds=true"]
)
def test_what_cannot_be_taken_stops_the_call(workspace, word):
    outcome = workspace.run("snakemake", "-n", "--config", "name=x", word)
    assert outcome.returncode
    assert f"--config {word}: " in outcome.stdout
    assert "Traceback" not in outcome.stdout
    assert not (workspace.path / "X").exists()
