"""What a file of weights says of itself chooses among what is declared, and does nothing else."""

import copy
import json
import random
from pathlib import Path

import pytest
import torch
from helpers.initial_runs import CATEGORIES
from helpers.weight_files import Harmful
from PIL import Image

from tood.cli import main
from tood.engine.config import build_model, resolve
from tood.engine.weights import weights_of
from tood.evaluation.detector import of_file
from tood.evaluation.weight_meta import ImportFailed, declared_settings, read
from tood.study.declarations import ExperimentError, load_runs
from tood.study.plan import Plan

CLASSES = [category["name"] for category in CATEGORIES]
OWN = {"name": "own", "data_root": "somewhere", "image_size": "320,240"}
NEAR = "fcos_r50_caffe_fpn_gn-head_1x_coco-821213aa.pth"


@pytest.fixture(scope="module")
def made():
    """The content of the file of a run of the scale smoke."""
    settings = Plan({}).settings("atss_af")
    torch.manual_seed(0)
    model = build_model(resolve(settings, CATEGORIES, None))
    return weights_of(model, {"settings": json.loads(json.dumps(settings)), "classes": CLASSES, "seed": 0})


@pytest.fixture
def content(made):
    return copy.deepcopy(made)


@pytest.mark.parametrize(
    ("options", "run"),
    [
        ({}, "tood_af"),
        ({"scale": "mini"}, "retinanet"),
        ({"scale": "mini"}, "gflv2_x101_32x4d_dcn"),
        ({"scale": "paper"}, "fovea"),
        ({"scale": "paper"}, "tood_m9"),
        ({"scale": "mini", **OWN}, "fcos"),
        ({"scale": "smoke", **OWN, "image_size": "800"}, "sapd_r101"),
        (
            {"scale": "smoke", "name": "x", "batch_size": 2, "lr": 0.1, "iterations": 3, "data_root": "x"},
            "paa",
        ),
        ({"scale": "paper", "weights": "released", "near": NEAR}, "fcos"),
    ],
    ids=str,
)
def test_settings_of_every_kind_of_study_are_found_again(options, run):
    settings = Plan({**options, "runs": run}).settings(run)
    found = declared_settings(json.loads(json.dumps(settings)), Path("a.pth"))
    categories = [{"name": "disc"}]
    assert resolve(found, categories, None).model == resolve(settings, categories, None).model
    assert resolve(found, categories, None).input.size == resolve(settings, categories, None).input.size


def test_settings_from_before_a_change_of_initial_weights(content):
    settings = content["meta"]["settings"]
    settings["heads"]["tood.ATSSHead"]["init_cfg"] = {"type": "os.system", "command": "x"}
    found = declared_settings(settings, Path("a.pth"))
    assert "init_cfg" not in found["heads"]["tood.ATSSHead"]


# Through the command, as a user calls it


@pytest.fixture
def call(tmp_path, capsys, monkeypatch):
    """Detect with a file of this content; the exit status and what was said."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 64)).save(tmp_path / "image.png")
    path = tmp_path / "a.pth"

    def run(content, *options: str) -> tuple[int, str]:
        torch.save(content, path)
        capsys.readouterr()
        status = main(["detect", "image.png", "--checkpoint", "a.pth", "--device", "cpu", *options])
        said = capsys.readouterr().err
        if status:
            assert said.startswith("tood: a.pth: ")
            assert said.count("\n") == 1, said
            assert "weights_only" not in said
        return status, said

    return run


def test_a_file_of_the_suite_is_taken(content, call):
    assert call(content)[0] == 0
    assert call({**content, "message_hub": Harmful(Path("planted"))})[0] == 0
    assert not Path("planted").exists()
    assert json.loads(Path("detections/images.json").read_text())["categories"][0]["name"] == CLASSES[0]


PLANTING = {"_delete_": True, "type": "os.system", "command": "touch planted"}
ATTACKS = {
    "model": {"model": {"neck": PLANTING}},
    "one more part": {"model": {"backbone": {"plugins": [{"cfg": PLANTING}]}}},
    "heads": {"heads": {"tood.ATSSHead": {"loss_cls": PLANTING}}},
    "a head's type": {"heads": {"tood.ATSSHead": {"type": "planting.Head"}}},
    "options": {"run": {"options": {"model.neck": PLANTING}}},
    "an option that evaluates": {"run": {"options": {"model.test_cfg.nms.type": "open('planted', 'w')"}}},
    "a size": {"input": {"size": [10**9, 10**9]}},
    "a size of text": {"input": {"size": "planted"}},
    "a width": {"model": {"backbone": {"base_channels": 10**9}}},
    "a released file": {"released": "../../planted.pth"},
}


def merged(settings: dict, changes: dict) -> dict:
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(settings.get(key), dict) and value is not PLANTING:
            merged(settings[key], value)
        else:
            settings[key] = value
    return settings


@pytest.mark.parametrize("name", ATTACKS)
def test_settings_that_are_not_declared_are_refused(content, call, name):
    Path("planting.py").write_text("open('planted', 'w')")
    merged(content["meta"]["settings"], ATTACKS[name])
    if name == "a released file":  # there is none of this name, and the rest is declared
        assert call(content)[0] == 0
    else:
        status, said = call(content)
        assert status == 2
        assert "meta.settings" in said
    assert not Path("planted").exists()


def test_a_configuration_that_a_file_names_is_not_opened(content, call):
    Path("program.py").write_text("open('planted', 'w')")
    for config in (str(Path("program.py").resolve()), "../../program.py", 5):
        content["meta"]["settings"]["run"]["config"] = config
        assert call(content)[0] == 0  # the run's own is taken
    assert not Path("planted").exists()


MALFORMED = {
    "meta=5": lambda meta: 5,
    "meta=[1]": lambda meta: [1],
    "meta=text": lambda meta: "x",
    "meta=None": lambda meta: None,
    "meta={}": lambda meta: {},
    "classes=5": lambda meta: {**meta, "classes": 5},
    "classes=text": lambda meta: {**meta, "classes": "disc"},
    "classes=numbers": lambda meta: {**meta, "classes": [1, 2]},
    "classes=empty": lambda meta: {**meta, "classes": []},
    "classes=surrogate": lambda meta: {**meta, "classes": ["\ud800"]},
    "classes=long": lambda meta: {**meta, "classes": ["x" * 10**5]},
    "classes=a million": lambda meta: {**meta, "classes": ["x"] * 10**6},
    "classes=more": lambda meta: {**meta, "classes": ["x"] * 20_000},
    "CLASSES=5": lambda meta: {"CLASSES": 5},
    "dataset_meta=text": lambda meta: {"dataset_meta": "x"},
    "dataset_meta.classes=5": lambda meta: {"dataset_meta": {"classes": 5}},
    "settings=text": lambda meta: {**meta, "settings": "x"},
    "settings={}": lambda meta: {**meta, "settings": {}},
    "settings=[]": lambda meta: {**meta, "settings": []},
    "settings.run=5": lambda meta: {**meta, "settings": {**meta["settings"], "run": 5}},
    "settings.run.id=5": lambda meta: {**meta, "settings": {**meta["settings"], "run": {"id": 5}}},
    "settings.run.id=unknown": lambda meta: {
        **meta,
        "settings": {**meta["settings"], "run": {"id": "atss_ag"}},
    },
    "settings.run.id=a path": lambda meta: {**meta, "settings": {**meta["settings"], "run": {"id": "../x"}}},
    "settings.model=5": lambda meta: {**meta, "settings": {**meta["settings"], "model": 5}},
    "settings.heads=None": lambda meta: {**meta, "settings": {**meta["settings"], "heads": None}},
}


@pytest.mark.parametrize("change", MALFORMED)
def test_what_a_file_says_wrongly_is_one_message(content, call, change):
    content["meta"] = MALFORMED[change](content["meta"])
    assert call(content)[0] == 2


def test_a_file_that_contains_itself(content, tmp_path):
    content["meta"]["settings"]["model"]["neck"] = content["meta"]["settings"]
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(ExperimentError, match=r"meta\.settings"):
        of_file(tmp_path / "a.pth", None, "cpu")


def test_a_name_with_a_date_is_no_hash(content, tmp_path):
    torch.save(content, tmp_path / "named-20240115.pth")
    assert of_file(tmp_path / "named-20240115.pth", None, "cpu").name == "named-20240115"
    torch.save(content, tmp_path / NEAR)
    with pytest.raises(ExperimentError, match="its name says 821213aa"):
        of_file(tmp_path / NEAR, None, "cpu")


VALUES = [
    None,
    5,
    -1,
    10**30,
    0.5,
    float("nan"),
    "",
    "x",
    "os.system",
    [],
    {},
    [1],
    {"type": "os.system"},
    (1, 2),
]


def mutated(value, number: random.Random, depth: int = 0):
    """A value with one place in it changed."""
    if depth and (not value or not isinstance(value, dict | list) or number.random() < 0.2):
        return copy.deepcopy(number.choice(VALUES))
    if isinstance(value, list):
        place = number.randrange(len(value))
        return [*value[:place], mutated(value[place], number, depth + 1), *value[place + 1 :]]
    key = number.choice(list(value))
    if number.random() < 0.2:
        return {name: each for name, each in value.items() if name != key} | {f"{key}x": value[key]}
    return value | {key: mutated(value[key], number, depth + 1)}


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2, 3))])
def test_random_changes_are_read_or_refused(made, tmp_path, monkeypatch, seed):
    monkeypatch.chdir(tmp_path)
    number, path, done = random.Random(seed), tmp_path / "a.pth", []
    runs = load_runs()
    small = {"state_dict": {"a": torch.ones(2)}, "meta": made["meta"]}
    for _ in range(16):
        content = small
        for _ in range(number.choice([1, 1, 2])):
            content = content | {"meta": mutated(content["meta"], number)}
        content["meta"] = {**content["meta"], "more": Harmful(tmp_path / "planted")}
        torch.save(content, path)
        try:
            weights = read(path)
            assert all(isinstance(name, str) for name in weights.classes)
            settings = declared_settings(weights.settings, path)
            assert settings["run"]["config"] == runs[settings["run"]["id"]].config
            done.append(path)
        except (ImportFailed, ExperimentError) as error:
            assert str(error).startswith(f"{path}: ")  # noqa: PT017 - some are read
            assert "\n" not in str(error)  # noqa: PT017
        assert list(tmp_path.iterdir()) == [path]
    assert 1 < len(done) < 15
