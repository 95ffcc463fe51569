"""Bad input stops the workflow before any training, with one line that has a hint; results stay."""

import json
import os
import re
import sys
import urllib.error
from pathlib import Path

import pytest
from helpers.scripts import script

from tood.data.synthetic import DrawingSpec, generate
from tood.study.declarations import load_runs
from tood.study.plan import Plan

SPLITS = Plan({"scale": "paper"}).settings("tood_af")["splits"]
TRAIN, VAL = (SPLITS[name]["annotations"] for name in ("train", "val"))
FIRST_TRAIN, FIRST_VAL = "train2017/000000000001.png", "val2017/000001000001.png"
ON_THE_CPU = ("scale=paper", "name=x", "weights=random", "device=cpu")
NEVER_TRAINED = next(run.id for run in load_runs().values() if not run.implemented)


@pytest.fixture
def kept(workspace):
    """A workspace with results of earlier studies, of those names that the calls below take."""
    for name in ("smoke", "paper", "x"):
        tables = workspace.path / "results" / name / "tables"
        tables.mkdir(parents=True)
        for file in (tables / "table1.csv", tables.parent / "metrics.csv"):
            file.write_text(f"measured before by {name}\n")
    (workspace.path / "results/paper/complexity.csv").write_text("counted before\n")
    return workspace


@pytest.fixture
def dataset(tmp_path) -> Path:
    root = tmp_path / "coco"
    generate(root, DrawingSpec(seed=0, train_images=4, val_images=2, image_size=(48, 32)))
    return root


def assert_refused(workspace, *call: str, parts: list[str], **environment: str) -> None:
    before = workspace.files("results")
    outcome = workspace.run("snakemake", "--cores", "2", *call, **environment)
    assert outcome.returncode != 0
    assert "Traceback" not in outcome.stdout, outcome.stdout
    messages = [line for line in outcome.stdout.splitlines() if all(part in line for part in parts)]
    assert len(messages) == 1, outcome.stdout
    trained = [p for name in ("model.pth", "state.json") for p in workspace.path.rglob(name)]
    assert trained == []
    assert workspace.files("results") == before


# The command line


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["scale=papr"], ["--config scale=papr", "did you mean paper?", "mini, paper, smoke"]),
        (["runs=tood_xf"], ["unknown run 'tood_xf'", "did you mean tood_af", "`tood runs` lists them"]),
        ([f"runs={NEVER_TRAINED}"], [f"{NEVER_TRAINED!r} is", "cannot be trained", "leave it out"]),
        (["itertions=3"], ["--config itertions", "did you mean iterations?"]),
        (["scale=paper", "weights=random"], ["--config weights", "scale 'paper'", "--config name=NAME"]),
    ],
    ids=["scale", "run", "run without code", "option", "other numbers without a name"],
)
def test_command_line(kept, options, parts):
    assert_refused(kept, "--config", *options, parts=parts)


# The machine


@pytest.mark.parametrize("place", ["results", "results/tiny", "work"])
def test_a_file_in_the_place_of_a_folder(workspace, place):
    """Not a matter of modes, which mean nothing to root."""
    path = workspace.path / place
    path.parent.mkdir(exist_ok=True)
    path.write_text("no folder\n")
    call = ("--config", "runs=tood_af", "iterations=1", "name=tiny")
    assert_refused(workspace, *call, parts=[f"{place} is not a folder", "rename or remove"])
    assert path.read_text() == "no folder\n"


def test_no_gpu_for_a_scale_that_wants_one(kept, dataset):
    call = ("--config", "scale=paper", "name=x", "weights=random", f"data_root={dataset}", "runs=tood_af")
    parts = ["needs a GPU", "--config device=cpu"]
    assert_refused(kept, *call, parts=parts, CUDA_VISIBLE_DEVICES="")


# The dataset, through the whole workflow and then fault by fault


def test_no_dataset(kept, tmp_path):
    root = tmp_path / "nowhere"
    parts = [f"data: {root}: ", "no such folder", "--config data_root=PATH"]
    assert_refused(kept, "--config", *ON_THE_CPU, f"data_root={root}", parts=parts)


def test_dataset_with_a_damaged_image(kept, dataset):
    cut_short(dataset / FIRST_VAL)
    parts = [f"data: {dataset / FIRST_VAL}: ", "cannot be decoded", "Hint: fetch"]
    assert_refused(kept, "--config", *ON_THE_CPU, f"data_root={dataset}", parts=parts)


def test_an_image_that_changes_after_the_check(workspace, dataset):
    manifest, options = "work/x/manifest.json", (*ON_THE_CPU, f"data_root={dataset}")
    checked = workspace.run("snakemake", "--cores", "1", manifest, "--config", *options)
    assert checked.returncode == 0, checked.stdout
    later = (workspace.path / manifest).stat().st_mtime + 1
    os.utime(dataset / FIRST_TRAIN, (later, later))
    parts = [f"{dataset / FIRST_TRAIN} changed after", f"remove {manifest}", "trained again"]
    assert_refused(workspace, "--config", *options, "runs=tood_af", parts=parts)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def rename_category(path: Path) -> None:
    content = json.loads(path.read_text())
    content["categories"][0]["name"] = "lolly"
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("damage", "file", "parts"),
    [
        (Path.unlink, VAL, [VAL, "no such file", "--config data_root=PATH"]),
        (cut_short, TRAIN, [TRAIN, "not valid JSON at line 1", "truncated?", "fetch or export"]),
        (Path.unlink, FIRST_TRAIN, [TRAIN, "1 of 4 image files", Path(FIRST_TRAIN).name, "copy the missing"]),
        (cut_short, FIRST_TRAIN, [FIRST_TRAIN, "cannot be decoded", "fetch or export"]),
        (rename_category, VAL, [VAL, f"not those of {TRAIN}", "'1 lolly'", "write the same list"]),
    ],
    ids=["no annotations", "half the annotations", "no image", "half an image", "other categories"],
)
def test_check_of_the_dataset(workspace, dataset, damage, file, parts):
    manifest = workspace.path / "manifest.json"
    call = ("workflow/scripts/check_data.py", "--root", dataset, "--splits", json.dumps(SPLITS))
    damage(dataset / file)
    outcome = workspace.run("python", *call, "--output", manifest)
    assert outcome.returncode == 1
    (message,) = outcome.stdout.splitlines()
    assert message.startswith(f"data: {dataset}/")
    assert all(part in message for part in (*parts, "Hint: ")), message
    assert not manifest.exists()


# The weights


@pytest.mark.parametrize(
    "error",
    [urllib.error.URLError("no route to host"), RuntimeError('invalid hash value (expected "0676ba61")')],
    ids=["no network", "another file"],
)
def test_weights_that_cannot_be_fetched(monkeypatch, tmp_path, error):
    fetch_weights = script("fetch_weights")

    def fail(url, path, **options):
        assert re.search(r"/resnet50-0676ba61\.pth$", url)
        assert options["hash_prefix"] == "0676ba61"
        Path(path).write_bytes(b"half")
        raise error

    monkeypatch.setattr("torch.hub.download_url_to_file", fail)
    output = tmp_path / "weights" / "resnet50.pth"
    monkeypatch.setattr(sys, "argv", ["fetch_weights.py", "--name", "resnet50", "--output", str(output)])
    with pytest.raises(SystemExit) as stopped:
        fetch_weights.main()
    message = str(stopped.value)
    for part in ("resnet50-0676ba61.pth", f"Put the file at {output}", "--config weights=random name=NAME"):
        assert part in message
    assert "\n" not in message
    assert list(output.parent.iterdir()) == []
