"""docs/own_data.md from photographs to an ONNX file: its commands as they are printed, on drawn images."""

import json
import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import cv2
import pandas as pd
import pytest
from helpers.layouts import write_voc

from tood.cli import main
from tood.evaluation.detector import of_run
from tood.study.plan import Plan

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs/own_data.md").read_text()
PART = PAGE.partition("## From photographs to an ONNX file\n")[2].partition("\n## ")[0]
COMMANDS = [
    shlex.split(line)
    for block in re.findall(r"```sh\n(.*?)```", PART, re.DOTALL)
    for line in block.replace("\\\n", "").splitlines()
]


def test_the_study_is_the_trial_without_its_limits():
    trial, study = (dict(word.split("=") for word in words[4:]) for words in COMMANDS[1:3])
    limits = {"name", "seeds", "schedule", "iterations", "val_images"}
    assert {key for key in trial | study if trial.get(key) != study.get(key)} == limits
    changed = study | {"data_root": "data"}
    plan = Plan({key: value for key, value in changed.items() if key not in ("train", "val")})
    assert (len(plan.trainings), plan.settings("tood_af")["run"]["epochs"]) == (6, 24)
    assert "six trainings of 24 epochs" in PART


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_commands_lead_to_tables_classes_and_an_onnx_file(new_workspace, monkeypatch, capsys):
    workspace = new_workspace(counted=True)
    clone, trial, _, classes, export, program = COMMANDS
    root = write_voc(workspace.path / clone[-1] / "BCCD")  # what is cloned
    lists = root / "ImageSets/Main"
    for there, named in (("train", "trainval"), ("val", "test")):
        shutil.copy(lists / f"{there}.txt", lists / f"{named}.txt")
    shutil.copy(next((root / "JPEGImages").iterdir()), workspace.path / program[-1])
    (workspace.path / "examples").symlink_to(REPOSITORY / "examples")
    monkeypatch.chdir(workspace.path)

    outcome = workspace.run(*trial)
    assert outcome.returncode == 0, outcome.stdout
    results = Path("results/trial")
    assert pd.read_csv(results / "tables/methods.csv")["seeds"].tolist() == [2, 2]
    for name in ("report.html", "tables/methods.md", "tables/claims.md", "figures/claims.png"):
        assert f"{name}`" in PART
        assert (results / name).stat().st_size > 500

    classes, export, program = (
        [word.replace("blood", "trial") for word in words] for words in (classes, export, program)
    )
    assert main(classes[1:]) == 0
    by_class = pd.read_csv(results / "classes/classes.csv")
    assert set(by_class["run"]) == {"atss_af", "tood_af"}
    assert main(export[1:]) == 0
    about = json.loads((results / "tood_af.json").read_text())
    assert set(about["classes"]) == set(by_class["class"].dropna()) | {"hot dog"}
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", [*program[1:], "0.0"])
    runpy.run_path(program[1])
    lines = capsys.readouterr().out.splitlines()
    # After so few iterations there may be none above the model's own threshold; tests/test_pages.py has many.
    detector, _ = of_run("tood_af", "trial", device="cpu")
    assert len(lines) == len(detector.detect(cv2.imread(program[-1])))
    assert all(re.match(rf"({'|'.join(about['classes'])}) 0\.\d+ \[", line) for line in lines)
