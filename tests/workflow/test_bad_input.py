"""Bad input stops the workflow before any training, with one line that has a hint; results stay."""

import json
import os
from pathlib import Path

import pytest
from helpers.server import serving
from PIL import Image

from tood.data.synthetic import DrawingSpec, generate
from tood.study.plan import Plan
from tood.workflow.steps import main

SPLITS = Plan({"scale": "paper"}).settings("tood_af")["splits"]
TRAIN, VAL = (SPLITS[name]["annotations"] for name in ("train", "val"))
FIRST_TRAIN, FIRST_VAL = "train2017/000000000001.png", "val2017/000001000001.png"
ON_THE_CPU = ("scale=paper", "name=x", "weights=random", "device=cpu")


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
        (["itertions=3"], ["--config itertions", "did you mean iterations"]),
        (["scale=paper", "weights=random"], ["--config weights", "scale 'paper'", "--config name=NAME"]),
    ],
    ids=["scale", "run", "option", "other numbers without a name"],
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
    parts = [f"data: {dataset / FIRST_VAL}: ", "cannot be read as an image", "Hint: fetch"]
    assert_refused(kept, "--config", *ON_THE_CPU, f"data_root={dataset}", parts=parts)


def test_an_image_that_changes_after_the_check(workspace, dataset):
    manifest, options = "work/x/manifest.json", (*ON_THE_CPU, f"data_root={dataset}")
    checked = workspace.run("snakemake", "--cores", "1", manifest, "--config", *options)
    assert checked.returncode == 0, checked.stdout
    later = (workspace.path / manifest).stat().st_mtime + 1
    os.utime(dataset / FIRST_TRAIN, (later, later))
    parts = [f"{dataset / FIRST_TRAIN} changed after", f"remove {manifest}", "trained again"]
    assert_refused(workspace, "--config", *options, "runs=tood_af", parts=parts)


def test_an_image_that_is_too_thin_for_the_size_of_a_later_call(kept, tmp_path):
    """The check is of the size that it was called with, and is not done again for another."""
    root = tmp_path / "coco"
    generate(root, DrawingSpec(seed=0, train_images=4, val_images=2, image_size=(640, 48)))
    annotations, thin = root / VAL, root / FIRST_VAL
    content = json.loads(annotations.read_text())
    content["images"][0].update(width=4000, height=20)
    annotations.write_text(json.dumps(content))
    Image.new("RGB", (4000, 20)).save(thin)
    manifest, own = "work/x/manifest.json", ("scale=smoke", "name=x", f"data_root={root}", "runs=tood_af")
    small, large = ((*own, f"image_size={size}") for size in ("64,48", "640,480"))
    parts = [f"data: {thin}: ", "4000 x 20 pixels become 64 x 0 at image_size=64,48", "Hint: cut the image"]
    assert_refused(kept, "--config", *small, parts=parts)
    checked = kept.run("snakemake", "--cores", "1", manifest, "--config", *large)
    assert checked.returncode == 0, checked.stdout
    before = (kept.path / manifest).stat().st_mtime_ns
    assert_refused(kept, "--config", *small, parts=[str(thin), *parts[1:]])
    assert (kept.path / manifest).stat().st_mtime_ns == before
    # Where the data change, the check itself looks again: the message leads out.
    content["images"] = content["images"][1:]
    content["annotations"] = [one for one in content["annotations"] if one["image_id"] != 1_000_001]
    annotations.write_text(json.dumps(content))
    again = kept.run("snakemake", "--cores", "1", manifest, "--config", *small)
    assert again.returncode == 0, again.stdout


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
        (cut_short, FIRST_TRAIN, [FIRST_TRAIN, "cannot be read as an image", "fetch or export"]),
        (
            rename_category,
            VAL,
            [VAL, f"not those of {TRAIN}", "unexpected ['lolly']", "write the same names"],
        ),
    ],
    ids=["no annotations", "half the annotations", "no image", "half an image", "other categories"],
)
def test_check_of_the_dataset(workspace, dataset, damage, file, parts):
    manifest = workspace.path / "manifest.json"
    call = ("workflow/step.py", "check_data", "--root", dataset, "--splits", json.dumps(SPLITS))
    damage(dataset / file)
    outcome = workspace.run("python", *call, "--sizes", "[]", "--output", manifest)
    assert outcome.returncode == 1
    command, message = outcome.stdout.splitlines()
    assert command.startswith("python workflow/step.py check_data --root ")
    assert message.startswith(f"data: {dataset}/")
    assert all(part in message for part in (*parts, "Hint: ")), message
    assert not manifest.exists()


# The weights


NAME = "resnet50-0676ba61.pth"  # of torchvision, by the hash of its content


@pytest.mark.parametrize(
    ("content", "part"),
    [(None, "answers 404"), (b"another file", "its sha256 is")],
    ids=["not there", "another file"],
)
def test_weights_that_cannot_be_fetched(monkeypatch, tmp_path, content, part):
    output = tmp_path / "weights" / "resnet50.pth"
    with serving() as server:
        if content is not None:
            server.files[f"/download.pytorch.org/models/{NAME}"] = content
        monkeypatch.setenv("TOOD_MIRROR", server.address)
        with pytest.raises(SystemExit) as stopped:
            main(["fetch_weights", "--name", "resnet50", "--output", str(output)])
    message = str(stopped.value)
    assert [path for path, _ in server.requests] == [f"/download.pytorch.org/models/{NAME}"]
    for expected in (NAME, part, f"Put the file at {output}", "--config weights=random name=NAME"):
        assert expected in message
    assert "\n" not in message
    assert [path for path in output.parent.iterdir() if not path.name.startswith(".")] == []


# Released weights


def test_a_released_file_that_mmdets_metafiles_lack(tmp_path):
    released = '{"run": "tood_af", "file": "unheard_of-12345678.pth", "origin": "mmdet"}'
    with pytest.raises(
        SystemExit, match=r"unheard_of-12345678\.pth: no metafile .* by hand, or name other runs"
    ):
        main(["fetch_released", "--released", released, "--output", str(tmp_path / "a.pth")])


def test_released_weights_for_a_scale_of_its_own_models(kept):
    parts = ["--config weights=released: no released file fits the models of scale 'smoke'", "scale=paper"]
    assert_refused(kept, "--config", "weights=released", parts=parts)
