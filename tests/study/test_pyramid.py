"""Detectors of the small scales on images of a user's own size."""

import shlex
from pathlib import Path

import pytest
import torch
from helpers.runs import one_of_each_head
from mmengine.config import Config

from tood.data.conversion import Conversion
from tood.engine.config import build_model, resolve
from tood.ledger.status import call_of
from tood.study.declarations import ExperimentError, load_runs
from tood.study.options import parse_options
from tood.study.paths import CONFIGS
from tood.study.plan import Plan
from tood.study.pyramid import fitted_head, fitted_model, strides_for
from tood.study.scales import load_scale

OWN = {"scale": "mini", "data_root": "photographs", "name": "mine"}
CLASSES = [{"id": 1, "name": "cup"}]


@pytest.mark.parametrize(
    ("longer", "strides"),
    [
        (32, [4, 8, 16]),
        (64, [4, 8, 16]),
        (90, [4, 8, 16]),
        (160, [4, 8, 16]),
        (256, [4, 8, 16, 32]),
        (320, [8, 16, 32]),
        (512, [8, 16, 32, 64]),
        (1333, [8, 16, 32, 64, 128]),  # the paper's
    ],
)
def test_the_pyramid_grows_with_the_images(longer, strides):
    assert strides_for(longer) == strides


@pytest.mark.parametrize("name", ["smoke", "mini"])
def test_at_the_scales_own_size_nothing_changes(name):
    scale = load_scale(name)
    longer = max(scale.drawing.image_size)
    assert fitted_model(scale.model, longer) == scale.model
    for kind, head in scale.heads.items():
        assert fitted_head(head, longer) == head, kind


def test_ranges_meet_and_grow_with_the_strides():
    head = {"regress_ranges": [], "base_edge_list": [], "anchor_generator": {"strides": [], "scales": 3}}
    assert fitted_head(head, 256) == {
        "regress_ranges": [[-1, 32], [32, 64], [64, 128], [128, 1e8]],
        "base_edge_list": [8, 16, 32, 64],
        "anchor_generator": {"strides": [4, 8, 16, 32], "scales": 3},
    }


@pytest.mark.parametrize("run", one_of_each_head())
def test_every_detector_is_built_and_detects_at_another_size(run):
    plan = Plan({**OWN, "image_size": "300,200", "runs": run})
    settings = plan.settings(run)
    assert settings["input"]["size"] == [300, 200]
    model = build_model(resolve(settings, CLASSES, None)).eval()
    model.init_weights()
    outs = model(torch.zeros(1, 3, 200, 300))
    assert [level.shape[-1] for level in outs[0]] == [38, 19, 10]
    head = model.bbox_head
    generator = getattr(head, "prior_generator", None)
    if generator is not None:
        assert [stride[0] for stride in generator.strides] == [8, 16, 32]


@pytest.mark.parametrize("run", load_runs())
def test_no_head_says_anything_of_sizes_that_is_not_fitted(run):
    """What a scale states for its size in a list per level has as many entries as the pyramid has levels."""
    settings = Plan({**OWN, "image_size": "512"}).settings(run)
    head = Config.fromfile(CONFIGS / load_runs()[run].config).model.bbox_head.type
    stated = settings["heads"].get(head, {})
    flat = {**stated, **stated.get("anchor_generator", {})}
    lists = {key: value for key, value in flat.items() if isinstance(value, list)}
    assert lists
    assert {key: len(value) for key, value in lists.items()} == dict.fromkeys(lists, 4)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"image_size": "16,300"}, "image_size=16,300: sides are between 32 and 2048 pixels"),
        ({"image_size": "300,4000"}, "sides are between 32 and 2048"),
        ({"image_size": "big"}, "image_size"),
        ({"image_size": "1,2,3"}, "image_size"),
        ({"train": "train.json"}, "train=train.json: write ANNOTATIONS:IMAGES"),
        ({"val": "a:b:c"}, "val=a:b:c: write ANNOTATIONS:IMAGES"),
        ({"val": "data.yaml:b:c"}, "val=data.yaml:b:c: write the YAML file, or FILE:KEY"),
        ({"train": "data.yaml:"}, "train=data.yaml:: write the YAML file, or FILE:KEY"),
        ({"train": "trainval"}, "--config train, val: different layouts: train VOC, val not given"),
        ({"data_root": None, "val": "test"}, "name files of a dataset of yours; add data_root=PATH"),
        ({"data_seed": 3}, "data_seed: nothing is drawn with data_root"),
        ({"name": None}, "draws its own data, and numbers on yours are not those of the scale"),
        ({"data_root": None, "image_size": 128}, "image_size: fits the detectors .* and data_root=PATH"),
        ({"data_root": None, "val": "a:b"}, "name files of a dataset of yours; add data_root=PATH"),
        ({"data_root": None, "classes": "bird"}, "names classes of a dataset of yours; add data_root=PATH"),
        (
            {"scale": "paper", "classes": "bird", "name": None},
            "--config classes: numbers obtained so are not",
        ),
        (
            {"scale": "paper", "classes": "bird", "weights": "released"},
            "--config classes: weights=released trains nothing; omit it",
        ),
        ({"scale": "paper", "image_size": 128}, "so it needs scale=mini or smoke"),
        ({"scale": "paper", "data_seed": 1}, "scale 'paper' draws no data"),
    ],
)
def test_options_that_do_not_fit_say_so(options, said):
    given = {key: value for key, value in (OWN | options).items() if value is not None}
    with pytest.raises(ExperimentError, match=said):
        Plan(given)


def test_own_data_are_named_as_they_are():
    plan = Plan({**OWN, "train": "train.json:photos", "val": "val.json:photos/val", "image_size": 160})
    assert plan.drawing is None
    assert {name: tuple(split) for name, split in plan.splits.items()} == {
        "train": ("train.json", "photos"),
        "val": ("val.json", "photos/val"),
    }
    assert plan.settings("fcos")["splits"]["val"] == {"annotations": "val.json", "images": "photos/val"}
    assert "Data: photographs (COCO layout), scaled, up or down, to fit into 160 × 160 pixels." in (
        plan.notes()
    )
    assert Plan(plan.study.model_dump(mode="json", exclude_none=True)).splits == plan.splits


@pytest.mark.parametrize(
    ("words", "layout"), [(("trainval", "test"), "VOC"), (("data.yaml", "my data.yaml:test"), "YOLO")]
)
def test_own_data_in_another_layout_are_converted(words, layout):
    """What trainings read is of the study, so that a record of it stands wherever the data are."""
    plan = Plan({**OWN, **dict(zip(("train", "val"), words, strict=True)), "image_size": 160})
    assert plan.conversion == Conversion(
        layout=layout, root=Path("photographs"), splits={"train": words[0], "val": words[1]}
    )
    assert (str(plan.data_root), plan.sources) == ("work/mine/data", "")
    assert plan.settings("fcos")["splits"] == {
        "train": {"annotations": "train.json", "images": "images"},
        "val": {"annotations": "val.json", "images": "images"},
    }
    assert any(
        note.startswith(f"Data: photographs ({layout} layout), scaled, up or down, to fit")
        for note in plan.notes()
    )
    again = Plan(plan.study.model_dump(mode="json", exclude_none=True))
    assert (again.conversion, again.splits) == (plan.conversion, plan.splits)
    call = shlex.split(call_of(plan))
    assert f"train={words[0]}" in call
    assert Plan(parse_options(call[call.index("--config") + 1 :])).study == plan.study


def test_some_classes_of_own_data_are_settings_and_noted():
    """Data of COCO are then converted too; without `classes` they are read where they are."""
    given = {**OWN, "train": "train.json:photos", "val": "val.json:photos"}
    plan, everything = Plan(given | {"classes": "traffic light,cat,cat"}), Plan(given)
    assert plan.conversion == Conversion(
        layout="COCO",
        root=Path("photographs"),
        splits={"train": "train.json:photos", "val": "val.json:photos"},
        classes=("cat", "traffic light"),
    )
    assert (everything.conversion, str(everything.data_root)) == (None, "photographs")
    assert plan.settings("fcos")["classes"] == ["cat", "traffic light"]
    assert "classes" not in everything.settings("fcos")
    (note,) = (note for note in plan.notes() if note.startswith("Data: "))
    assert note.endswith("Of their classes only cat, traffic light; images without these are kept.")
    call = shlex.split(call_of(plan))
    assert Plan(parse_options(call[call.index("--config") + 1 :])).study == plan.study
    paper = Plan({"scale": "paper", "name": "x", "data_root": "coco", "classes": ["cat"]})
    assert (paper.own_data, paper.tolerance) == (True, None)
    assert paper.conversion.splits["val"] == "annotations/instances_val2017.json:val2017"


def test_conversions_without_classes_are_described_as_before():
    """By this text Snakemake tells whether to convert again."""
    words = {"train": "trainval", "val": "test"}
    assert Plan({**OWN, **words}).conversion.model_dump_json(exclude_defaults=True) == (
        '{"layout":"VOC","root":"photographs","splits":{"train":"trainval","val":"test"}}'
    )


def test_another_seed_draws_other_images():
    plan = Plan({"scale": "mini", "data_seed": 1, "name": "other"})
    assert (plan.drawing.seed, str(plan.data_root)) == (1, "work/data/mini_seed1")
    assert plan.drawing.train_images == load_scale("mini").drawing.train_images
    assert plan.settings("fcos") == Plan({"scale": "mini"}).settings(
        "fcos"
    )  # its data differ, not the recipe
    assert "Images are drawn with seed 1." in plan.notes()


def test_learning_rate_and_schedule_of_a_sweep():
    plan = Plan({"scale": "mini", "lr": 0.05, "schedule": 2, "name": "sweep"})
    settings, own = plan.settings("fcos"), Plan({"scale": "mini"}).settings("fcos")
    assert (settings["train"]["lr"], settings["run"]["epochs"]) == (0.05, 24)
    assert settings["run"]["milestones"] == [16, 22]
    assert {key for key in own if own[key] != settings[key]} == {"train", "run"}
    assert {"Learning rate 0.05.", "Every training has 2 times the epochs of its run."} <= set(plan.notes())
