"""Configurations name registered classes, and nothing that would be imported or evaluated."""

import copy

import pytest
from helpers.mmdet_heads import MMDET_CONFIGS
from mmdet.utils import register_all_modules
from mmengine.config import Config

from tood.engine.config import build_model, resolve
from tood.engine.registered import IMAGE_STEPS, MODEL_PARTS, require_registered
from tood.study.declarations import ExperimentError, Run
from tood.study.plan import Plan

CATEGORIES = [{"name": "disc"}, {"name": "ring"}]


@pytest.fixture
def settings():
    return copy.deepcopy(Plan({}).settings("tood_af"))


def planting(path) -> dict:
    return {"_delete_": True, "type": "os.system", "command": f"touch {path}"}


ATTACKS = {
    "a neck": lambda path: {"model.neck": planting(path)},
    "a head": lambda path: {"model.bbox_head.type": "tests.helpers.x.Head"},
    "a part of the head": lambda path: {"model.bbox_head.loss_cls": planting(path)},
    "an entry of a list": lambda path: {"model.backbone.plugins": [{"cfg": planting(path)}]},
    "an initialiser": lambda path: {"model.bbox_head.init_cfg": [planting(path)]},
    "a layer": lambda path: {"model.neck.norm_cfg": {"type": "subprocess.getoutput", "cmd": f"touch {path}"}},
    "a class": lambda path: {"model.neck": {"_delete_": True, "type": open, "file": str(path), "mode": "w"}},
    "an NMS": lambda path: {"model.test_cfg.nms.type": f"open({str(path)!r}, 'w')"},
    "a scope": lambda path: {"model.neck._scope_": "antigravity"},
    "a module of no class": lambda path: {"model.neck.type": "antigravity"},
    "a class without its scope": lambda path: {"model.bbox_head.type": "TOODOnly"},
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_option_names_what_is_not_registered(settings, attack, tmp_path):
    planted = tmp_path / "planted"
    settings["run"]["options"] = ATTACKS[attack](planted)
    with pytest.raises(ExperimentError, match=r"^model.*is no registered name") as error:
        build_model(resolve(settings, CATEGORIES, None))
    assert "\n" not in str(error.value)
    assert not planted.exists()


def test_a_configuration_lies_in_the_folder_of_them(settings, tmp_path):
    planted, program = tmp_path / "planted", tmp_path / "program.py"
    program.write_text(f"open({str(planted)!r}, 'w')")
    up = "/".join([".."] * 20)
    for config in (str(program), f"{up}{program}"):
        settings["run"]["config"] = config
        with pytest.raises(ExperimentError, match=r"tood_af: its configuration .* lies outside of"):
            resolve(settings, CATEGORIES, None)
        with pytest.raises(ValueError, match="should match pattern"):
            Run(id="x", title="x", backbone="x", epochs=12, config=config)
    assert not planted.exists()


def test_a_link_out_of_the_folder_is_no_configuration(settings, tmp_path, monkeypatch):
    (tmp_path / "configs").mkdir()
    (tmp_path / "program.py").write_text("raise SystemExit")
    (tmp_path / "configs" / "a.py").symlink_to(tmp_path / "program.py")
    monkeypatch.setattr("tood.engine.config.CONFIGS", tmp_path / "configs")
    settings["run"]["config"] = "a.py"
    with pytest.raises(ExperimentError, match=r"program\.py lies outside of"):
        resolve(settings, CATEGORIES, None)


def test_every_dense_detector_of_mmdet_names_registered_classes():
    register_all_modules(init_default_scope=True)
    compared = 0
    for path in sorted(MMDET_CONFIGS.glob("*/*.py")):
        if path.parent.name not in (
            "atss",
            "fcos",
            "gfl",
            "foveabox",
            "nas_fcos",
            "paa",
            "retinanet",
            "tood",
        ):
            continue
        config = Config.fromfile(path)
        if "model" in config:
            require_registered(config.model, "model", MODEL_PARTS)
            require_registered(config.test_pipeline, "test_pipeline", IMAGE_STEPS)
            compared += 1
    assert compared > 40
