"""What one call of the workflow asks for: defaults, options, and one helpful message for every mistake."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tood.study import plan as study
from tood.study.declarations import ExperimentError, load_runs, select_runs
from tood.study.plan import Plan
from tood.study.scales import SCALES, BackboneChanges, load_scale, scale_names
from tood.workflow.stages import describe_study

IMPLEMENTED = [run.id for run in select_runs(None, load_runs())]


def refused(**options) -> str:
    """The message with which a study is refused: a single line."""
    with pytest.raises(ExperimentError) as caught:
        Plan(options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_defaults_are_the_smoke_scale_and_every_run():
    plan, scale = Plan({}), load_scale("smoke")
    assert (plan.name, plan.scale, plan.seeds) == ("smoke", scale, scale.seeds)
    assert [run.id for run in plan.runs] == IMPLEMENTED
    assert (plan.data_root, plan.weights, plan.device) == (scale.data_root, scale.weights, scale.device)


def test_an_option_that_is_none_is_as_if_not_given():
    assert Plan({"name": None, "runs": None, "iterations": None}).study == Plan({}).study


@pytest.mark.parametrize("name", scale_names())
def test_every_scale_loads_and_plans(name):
    plan = Plan({"scale": name})
    assert plan.name == plan.scale.name == name
    assert plan.seeds
    for run in plan.runs:
        settings = plan.settings(run.id)
        assert json.loads(json.dumps(settings)) == settings


def test_the_paper_scale_deviates_in_nothing():
    settings = Plan({"scale": "paper"}).settings("tood_af")
    assert settings["model"] == settings["input"] == settings["train"] == {}
    assert settings["weights"] == "imagenet"


@pytest.mark.parametrize(
    ("given", "ids"),
    [
        ("tood_af", ["tood_af"]),
        ("tood_af,atss_af", ["tood_af", "atss_af"]),
        (" tood_af, atss_af ", ["tood_af", "atss_af"]),
        (["atss_af", "tood_af"], ["atss_af", "tood_af"]),
        ("tal,tal", ["tal"]),
    ],
)
def test_runs(given, ids):
    assert [run.id for run in Plan({"runs": given}).runs] == ids


@pytest.mark.parametrize(
    ("given", "seeds"),
    [(3, (3,)), (0, (0,)), ("0,1", (0, 1)), ("4 2", (4, 2)), ([5, 6], (5, 6)), ("7", (7,)), ("1,1", (1,))],
)
def test_seeds(given, seeds):
    assert Plan({"seeds": given}).seeds == seeds


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"iteration": 3}, ["iteration", "did you mean iterations", "val_images"]),
        ({"xyz": 3}, ["xyz: unknown option", "there are scale"]),
        ({"scale": "smok"}, ["scale=smok", "did you mean smoke?", "mini, paper, smoke"]),
        ({"scale": "xyz"}, ["unknown scale; there are mini"]),
        ({"runs": "tood_aff"}, ["'tood_aff'", "did you mean tood_af", "`tood runs`"]),
        (
            {"iterations": 0, "name": "x"},
            ["iterations=0", "greater than or equal to 1", "docs/configuration.md"],
        ),
        ({"batch_size": -1, "name": "x"}, ["batch_size=-1"]),
        ({"val_images": "many", "name": "x"}, ["val_images=many", "whole number"]),
        ({"precision": "fp16", "name": "x"}, ["precision=fp16", "'float32', 'tf32' or 'bf16'"]),
        ({"device": "gpu"}, ["device=gpu", "'auto', 'cpu' or 'cuda'"]),
        ({"weights": "coco", "name": "x"}, ["weights=coco", "'imagenet', 'random' or 'released'"]),
        ({"seeds": "0,one"}, ["seeds=0,one", "whole number"]),
        ({"seeds": -1}, ["seeds", "-1"]),
        ({"name": "a/b"}, ["name=a/b"]),
    ],
    ids=str,
)
def test_mistakes_are_named_with_their_mend(options, parts):
    message = refused(**options)
    for part in ("--config" if "runs" not in options else "runs: ", *parts):
        assert part in message, message


CHANGES = {"weights": "imagenet", "iterations": 5, "batch_size": 2, "precision": "bf16", "val_images": 3}


@pytest.mark.parametrize("key", CHANGES)
def test_incomparable_numbers_need_a_name_of_their_own(key):
    message = refused(**{key: CHANGES[key]})
    assert key in message
    assert "name=NAME" in message
    assert Plan({key: CHANGES[key], "name": "trial"}).name == "trial"


@pytest.mark.parametrize("name", scale_names())
def test_the_name_of_a_scale_is_not_for_other_numbers(name):
    assert name in refused(iterations=3, name=name)
    if Plan({"scale": name}).drawing:
        assert name in refused(scale=name, data_root="birds", name=name)


def test_data_of_ones_own_need_a_name_where_a_scale_draws(tmp_path):
    assert "draws its own data" in refused(data_root=str(tmp_path))
    plan = Plan({"scale": "paper", "data_root": str(tmp_path), "name": "mine"})
    assert plan.data_root == tmp_path
    assert tmp_path.name in " ".join(plan.notes())


def test_notes_say_what_makes_the_numbers_differ():
    plain = " ".join(Plan({"scale": "paper"}).notes())
    for word in ("random", "stopped", "Batches", "first", "Data:"):
        assert word not in plain
    notes = " ".join(
        Plan(
            {"scale": "paper", "name": "x", "seeds": "3,8"} | CHANGES | {"weights": "random"},
        ).notes()
    )
    for phrase in (
        "random weights",
        "after 5 iterations",
        "Batches of 2 images",
        "first 3 validation images",
        "3, 8",
    ):
        assert phrase in notes


def test_a_learning_rate_that_was_given_is_not_called_unchanged():
    study = {"scale": "paper", "name": "x", "batch_size": 8}
    assert "Batches of 8 images, with the learning rate unchanged." in Plan(study).notes()
    notes = Plan(study | {"lr": 0.005}).notes()
    assert {"Learning rate 0.005.", "Batches of 8 images."} <= set(notes)


def test_notes_of_a_drawn_scale_say_that_weights_are_random():
    assert any("random weights" in note for note in Plan({}).notes())


def test_settings_hold_what_decides_a_training():
    options = {"name": "x", "iterations": 5, "batch_size": 2, "weights": "imagenet"}
    settings, plain = Plan(options).settings("tood_af"), Plan({}).settings("tood_af")
    assert (settings["iterations"], settings["train"]["batch_size"], settings["weights"]) == (
        5,
        2,
        "imagenet",
    )
    assert settings["train"] == plain["train"] | {"batch_size": 2}
    assert plain["run"]["milestones"] == [4, 6]


def test_the_default_precision_leaves_earlier_trainings_as_they_are():
    plain, single, half, rounded = (
        Plan({"name": "x"} | ({"precision": value} if value else {}))
        for value in (None, "float32", "bf16", "tf32")
    )
    settings = plain.settings("tood_af")
    assert single.settings("tood_af") == settings
    assert "precision" not in settings["train"]
    assert half.settings("tood_af")["train"] == settings["train"] | {"precision": "bf16"}
    assert any("bfloat16" in note for note in half.notes())
    assert rounded.settings("tood_af")["train"] == settings["train"] | {"precision": "tf32"}
    assert any("TF32" in note for note in rounded.notes())
    assert plain.notes() == single.notes()


@pytest.mark.parametrize(
    "options",
    [
        {"seeds": "0,1,2"},
        {"name": "other"},
        {"runs": "tood_af"},
        {"device": "cpu"},
        {"val_images": 3, "name": "other"},
    ],
    ids=str,
)
def test_settings_hold_nothing_else_so_that_adding_a_seed_trains_nothing_again(options):
    assert Plan(options).settings("tood_af") == Plan({}).settings("tood_af")


def test_importing_the_study_imports_nothing_heavy():
    program = (
        "import sys; from tood.study.plan import Plan; Plan({});"
        "print({'torch', 'mmdet', 'mmengine', 'snakemake', 'pandas'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "set()\n"


# What jobs ask for


def test_a_larger_backbone_asks_for_more():
    plan = Plan({"scale": "paper"})
    assert plan.resources("tood_r101").runtime > plan.resources("tood_af").runtime
    assert plan.resources("tood_af") == plan.scale.resources


def test_an_unknown_backbone_in_a_scale(monkeypatch):
    scale = load_scale("paper").model_copy(update={"backbones": {"ResNet-42": BackboneChanges()}})
    monkeypatch.setattr(study, "load_scale", lambda name: scale)
    with pytest.raises(ExperimentError, match=r"paper.yaml: backbones: .* 'ResNet-42'; .*there are"):
        Plan({"scale": "paper"})


def test_a_scale_changes_the_runs_of_one_backbone_alone(monkeypatch):
    changes = BackboneChanges(model={"backbone": {"depth": 50}}, schedule=0.25)
    scale = load_scale("smoke").model_copy(update={"backbones": {"ResNet-101": changes}})
    monkeypatch.setattr(study, "load_scale", lambda name: scale)
    changed, other = Plan({}).settings("tood_r101"), Plan({}).settings("tood_af")
    assert (changed["run"]["epochs"], changed["run"]["milestones"]) == (6, [4, 6])  # of 24: 16, 22
    assert changed["model"]["backbone"] == scale.model["backbone"] | {"depth": 50}
    assert changed["model"]["neck"] == scale.model["neck"]
    assert (other["run"]["epochs"], other["run"]["milestones"]) == (12, [8, 11])
    assert other["model"] == scale.model
    assert "Runs with ResNet-101 train 25% of their epochs." in Plan({}).notes()
    assert "6 epochs" in describe_study(Plan({"runs": "tood_r101"}), {}, [])


def test_every_backbone_of_the_paper_trains_at_every_scale():
    """At smoke and mini the blocks of its family, with deformable layers where it has some."""
    for name in ("smoke", "mini"):
        plan = Plan({"scale": name})
        for run in plan.runs:
            backbone = plan.settings(run.id)["model"]["backbone"]
            bottlenecks = run.backbone not in ("ResNet-50", "ResNet-101")
            assert backbone["depth"] == (50 if bottlenecks else 18)
            assert ("groups" in backbone) == run.backbone.startswith("ResNeXt")
            assert any(backbone.get("stage_with_dcn", ())) == run.backbone.endswith("DCN")


def test_settings_hold_the_changes_of_a_runs_own_head_alone():
    """A change of another head's size trains nothing again."""
    plan = Plan({})
    for run, head in (("tood_af", "tood.TOODHead"), ("mal", "tood.MALHead"), ("fovea", "tood.FoveaHead")):
        heads = plan.settings(run)["heads"]
        assert heads[head] == plan.scale.heads[head]
        assert len(heads) <= 3  # with those that its configuration builds on


def test_changes_of_a_head_that_no_configuration_has_are_refused(monkeypatch):
    scale = load_scale("smoke")
    misspelt = scale.model_copy(update={"heads": scale.heads | {"tood.TODHead": {}}})
    monkeypatch.setattr("tood.study.plan.load_scale", lambda name: misspelt)
    assert "no configuration under experiments/configs has the head 'tood.TODHead'" in refused()


def test_a_misspelt_key_of_a_scales_training_is_refused(monkeypatch, tmp_path):
    text = (SCALES / "smoke.yaml").read_text().replace("  lr: 0.04", "  learning_rate: 0.04")
    (tmp_path / "smoke.yaml").write_text(text)
    monkeypatch.setattr("tood.study.scales.SCALES", tmp_path)
    assert "training: learning_rate: unknown key" in refused()


def test_sizes_at_the_inputs_of_networks():
    assert Plan({}).input_sizes == [[64, 64]]
    assert Plan({"scale": "paper"}).input_sizes == [[1333, 800]]
    own = {"scale": "mini", "data_root": "somewhere", "name": "x"}
    assert Plan({**own, "image_size": "48,160"}).input_sizes == [[160, 48]]
