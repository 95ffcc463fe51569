"""Variations of runs in the workflow: planned from every place of options, trained as a declared run is."""

import json

import pandas as pd
import pytest
import torch

TAL = "model.train_cfg.initial_epoch=0"  # from the first iteration on
TOPK = "model.train_cfg.assigner.topk"
RUNS = ("tood_af", "tood_m9", "tood_m5")


@pytest.fixture
def workspace(new_workspace):
    return new_workspace(counted=True)


def call(topk: int, *words: str) -> list[str]:
    varied = ",".join([f"tood_af.{TOPK}={topk}", *(f"{run}.{TAL}" for run in RUNS)])
    fixed = ("name=varied", f"runs={','.join(RUNS)}", "iterations=2", "val_images=6")
    return ["--cores", "2", "--config", *fixed, f"options={varied}", *words]


@pytest.mark.slow  # half a minute
def test_a_varied_run_is_trained_as_the_declared_run_with_the_same_values(workspace):
    """TOOD with m = 9 is a run of its own in the paper."""
    outcome = workspace.run("snakemake", *call(9))
    assert outcome.returncode == 0, outcome.stdout
    work, results = workspace.path / "work/varied/runs", workspace.path / "results/varied"
    folders = [work / run / "seed0" for run in RUNS]
    made = [json.loads((folder / "provenance.json").read_text()) for folder in folders]
    assert made[0]["settings"]["run"]["options"] == {TOPK: 9, TAL.partition("=")[0]: 0}
    assert made[0]["config"] == made[1]["config"] != made[2]["config"]
    weights = [torch.load(folder / "model.pth", weights_only=True) for folder in folders]
    varied, declared, other = (content["state_dict"] for content in weights)
    assert all(torch.equal(varied[key], declared[key]) for key in declared)
    assert not all(torch.equal(varied[key], other[key]) for key in declared)
    record = json.loads((results / "runs/tood_af/seed0.json").read_text())
    assert record["files"]["provenance.json"]["settings"]["run"]["options"][TOPK] == 9
    note = f"tood_af is varied: {TOPK} is 9 in place of 13, {TAL.partition('=')[0]} is 0 in place of 4."
    assert note in (results / "report.html").read_text()
    assert note in (results / "tables/table_m.md").read_text().replace("\\_", "_")
    frame = pd.read_csv(results / "metrics.csv").set_index("run")
    assert frame.loc["tood_af", "study"].unique().tolist() == ["varied"]
    assert f"{TOPK} 9 in place of 13" in workspace.run("tood", "show", "tood_af").stdout
    assert "Nothing to be done" in workspace.run("snakemake", *call(9)).stdout
    again = workspace.run("snakemake", "-n", "-p", *call(11)).stdout
    assert "wildcards: run=tood_af, seed=0" in again
    assert not any(f"wildcards: run={run}," in again for run in RUNS[1:])


def test_variations_of_files_and_profiles(workspace):
    """Nested or with dots; a profile's mapping reaches the workflow as text."""
    (workspace.path / "mine").mkdir()
    profile = (
        "config:\n  name: mine\n  runs: tood_af\n  options: {tood_af: {model: {train_cfg: {alpha: 2}}}}\n"
    )
    (workspace.path / "mine/config.yaml").write_text(profile)
    (workspace.path / "mine.yaml").write_text(
        "name: mine\nruns: [tood_af]\noptions:\n  tood_af:\n    model.train_cfg.alpha: 2\n"
    )
    typed = ("--config", "name=mine", "runs=tood_af", "options=tood_af.model.train_cfg.alpha=2")
    calls = [typed, ("--configfile", "mine.yaml"), ("--profile", "mine", "--cores", "1")]
    planned = [workspace.run("snakemake", "-n", "-p", *words) for words in calls]
    for outcome in planned:
        assert outcome.returncode == 0, outcome.stdout
        assert '"options":{"model.train_cfg.alpha":2.0}' in outcome.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("options=tood_af.model.train_cfg.alpha=2",), "give the study a name for its results"),
        (("name=x", "options=tood_af.alpha=2"), "did you mean model.train_cfg.alpha?"),
        (("name=x", "options=tood_af.model.train_cfg.alpha=[1,2]"), "must be a number"),
    ],
)
def test_what_cannot_be_taken_stops_the_call(workspace, words, said):
    outcome = workspace.run("snakemake", "-n", "--config", *words)
    assert outcome.returncode
    assert said in outcome.stdout.replace("model.bbox_head.initial_loss_cls.alpha or ", "")
    assert "Traceback" not in outcome.stdout
