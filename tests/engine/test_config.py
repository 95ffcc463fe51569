"""The resolved configuration of a run, and the detector that is built of it."""

from pathlib import Path

import pytest
import torch
from helpers.odd_images import ODD
from mmengine.config import Config
from mmengine.runner import set_random_seed

from tood.engine.config import build_model, resolve
from tood.study.declarations import EXPERIMENTS
from tood.study.plan import Plan

RUNS = [run.id for run in Plan({}).runs]


def flatten(nested, place="") -> dict:
    """Dotted keys and the values they lead to."""
    if not isinstance(nested, dict):
        return {place: nested}
    return {
        deeper: value
        for key, inner in nested.items()
        for deeper, value in flatten(inner, f"{place}.{key}" if place else key).items()
    }


def plain(value):
    return list(value) if isinstance(value, tuple) else value


def one_of_each_kind() -> list[str]:
    """A run for each configuration and backbone: all that a scale's changes depend on."""
    return list({(run.config, run.backbone): run.id for run in reversed(Plan({}).runs)}.values())


# A run's own options come after those of its scale, so they are compared at one scale alone.
@pytest.mark.parametrize(
    ("scale", "run"),
    [
        *(("paper", run) for run in RUNS),
        *((scale, run) for scale in ("smoke", "mini") for run in one_of_each_kind()),
    ],
)
def test_resolving_changes_what_is_named_and_nothing_else(scale, run):
    settings = Plan({"scale": scale}).settings(run)
    found = flatten(resolve(settings, ODD, Path("initial.pth")).to_dict())
    declared = settings["run"]
    expected = flatten(Config.fromfile(EXPERIMENTS / "configs" / declared["config"]).to_dict())
    head = settings["heads"].get(expected["model.bbox_head.type"], {})
    if expected.get("model.bbox_head.norm_cfg", 0) is None:  # as if it said nothing
        del expected["model.bbox_head.norm_cfg"]
    _, published = expected["input.size"]
    for key, change in {
        "model.bbox_head": head,
        **{k: settings[k] for k in ("model", "input", "train")},
    }.items():
        expected |= flatten(change, key)
    # A mapping that a scale takes away, such as a normalisation, takes its keys along.
    taken = [f"{key}." for key, value in expected.items() if value is None]
    expected = {key: value for key, value in expected.items() if not key.startswith(tuple(taken))}
    for key, sides in expected.items():
        if key.startswith("input.train_short_sides."):  # they shrink with the images
            shorter = expected["input.size"][1]
            expected[key] = [round(side * shorter / published) for side in sides]
    expected |= declared["options"]
    expected |= {
        "model.bbox_head.num_classes": 3,
        "model.backbone.init_cfg.type": "Pretrained",
        "model.backbone.init_cfg.checkpoint": "initial.pth",
        "classes": ["truck", "bird", "cat"],
        "schedule.epochs": declared["epochs"],
        "schedule.milestones": declared["milestones"],
    }
    assert {k: plain(v) for k, v in found.items()} == {k: plain(v) for k, v in expected.items()}


def test_options_of_the_run_come_last():
    settings = Plan({}).settings("tood_af")
    options = {"train.lr": 0.5, "model.neck.out_channels": 48, "input.size": [96, 80]}
    options["model.bbox_head.anchor_generator.octave_base_scale"] = 6
    resolved = flatten(resolve(settings, ODD, None).to_dict())
    settings["run"]["options"] = options
    assert flatten(resolve(settings, ODD, None).to_dict()) == resolved | options
    assert all(resolved[key] != value for key, value in options.items())


def test_without_weights_the_backbone_starts_at_random():
    config = resolve(Plan({}).settings("tood_af"), ODD, None)
    assert config.model.backbone.init_cfg is None
    states = []
    for seed in (0, 0, 1):
        set_random_seed(seed)
        model = build_model(config)
        model.init_weights()
        states.append(model.backbone.conv1.weight.detach().clone())
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_weights_are_loaded_into_the_backbone(tmp_path):
    config = resolve(Plan({}).settings("atss_af"), ODD, tmp_path / "initial.pth")
    state = {name: torch.rand_like(p) for name, p in build_model(config).backbone.named_parameters()}
    torch.save(state, tmp_path / "initial.pth")
    model = build_model(config)
    model.init_weights()
    for name, parameter in model.backbone.named_parameters():
        assert torch.equal(parameter, state[name]), name
