"""Configurations of runs and of mmdet as flat facts, to be compared key by key."""

import inspect
from pathlib import Path

import mmdet
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.config import Config

from tood.engine.config import resolve
from tood.study.declarations import load_runs
from tood.study.plan import Plan

SHIPPED = Path(mmdet.__file__).parent / ".mim" / "configs"
CATEGORIES = [{"id": number, "name": str(number)} for number in range(80)]
ABSENT = "absent"
# Of initial weights: the name in runs.yaml, and what mmdet's files call them
WEIGHTS = {
    "torchvision://resnet50": "resnet50",
    "torchvision://resnet101": "resnet101",
    "open-mmlab://detectron2/resnet50_caffe": "resnet50_caffe",
    "open-mmlab://detectron2/resnet101_caffe": "resnet101_caffe",
    "open-mmlab://detectron/resnet50_caffe": "resnet50_caffe_detectron",
    "open-mmlab://detectron/resnet101_caffe": "resnet101_caffe_detectron",
    "open-mmlab://resnext101_32x4d": "resnext101_32x4d",
    "open-mmlab://resnext101_64x4d": "resnext101_64x4d",
}

# What is mmdet's of the same name to the last bit, but for waits for a GPU and looks at values
SAME = ("ATSSAssigner", "DeltaXYWHBBoxCoder", "DetDataPreprocessor", "DistributionFocalLoss")
SAME += ("GIoULoss", "IoULoss", "QualityFocalLoss")


def ours(run: str) -> Config:
    """The configuration of a run at its paper size."""
    return resolve(Plan({"scale": "paper"}).settings(run), CATEGORIES, Path("initial.pth"))


def shipped(file: str) -> Config:
    """A configuration that mmdet comes with."""
    register_all_modules(init_default_scope=False)
    return Config.fromfile(SHIPPED / file)


def differences(a: dict, b: dict) -> dict[str, tuple]:
    """Keys whose values differ, with both values."""
    pairs = {key: (a.get(key, ABSENT), b.get(key, ABSENT)) for key in a | b}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def mmdets_names(facts: dict) -> dict:
    """Facts with mmdet's name for each class that is mmdet's to the last bit."""
    named = {f"tood.{name}": name for name in SAME}
    return facts | {key: named.get(value, value) for key, value in facts.items() if key.endswith("type")}


def model_differences(run: Config, other: Config) -> dict[str, tuple]:
    """Of two models, but for their initial weights; what `other` leaves out has the default of its class."""
    for part in ("bbox_head", "backbone"):
        other.model[part] = _with_defaults(other.model[part], run.model[part])
    found = differences(mmdets_names(_flatten(run.model)), mmdets_names(_flatten(other.model)))
    return {key: pair for key, pair in found.items() if not key.startswith("backbone.init_cfg")}


def our_training(run: str) -> dict:
    """Initial weights, optimiser, warm-up, schedule, batch and augmentation of a run."""
    config = ours(run)
    facts = {key: value for key, value in config.train.items() if key not in ("replica", "precision")}
    return _plain(
        facts
        | config.schedule
        | config.input
        | {"weights": load_runs()[run].weights, "size": list(config.input.size)}
    )


def shipped_training(config: Config) -> dict:
    """The same of a configuration of mmdet."""
    wrapper, (warmup, steps) = config.optim_wrapper, config.param_scheduler
    optimizer = dict(wrapper.optimizer)
    assert optimizer.pop("type") == "SGD"
    multipliers = dict(bias_lr_mult=1.0, bias_decay_mult=1.0, norm_decay_mult=1.0)
    assert (warmup.begin, warmup.by_epoch) == (0, False)
    (resize,) = (step for step in config.train_dataloader.dataset.pipeline if "Resize" in step.type)
    (flip,) = (step for step in config.train_dataloader.dataset.pipeline if step.type == "RandomFlip")
    assert resize.keep_ratio
    scales = [resize.scale] if resize.type == "Resize" else resize.get("scales", resize.get("scale"))
    kind = {"Resize": None, "RandomResize": "range", "RandomChoiceResize": "choices"}[resize.type]
    (test,) = (step for step in config.test_dataloader.dataset.pipeline if step.type == "Resize")
    assert {long for long, _ in scales} == {test.scale[0]}
    return _plain(
        optimizer
        | multipliers
        | (wrapper.get("paramwise_cfg") or {})
        | {
            "grad_clip": (wrapper.get("clip_grad") or dict(max_norm=None))["max_norm"],
            "warmup": {"LinearLR": "linear", "ConstantLR": "constant"}[warmup.type],
            "warmup_factor": warmup.start_factor if warmup.type == "LinearLR" else warmup.factor,
            "warmup_iterations": warmup.end,
            "epochs": config.train_cfg.max_epochs,
            "milestones": steps.milestones,
            "batch_size": config.auto_scale_lr.base_batch_size,
            "size": test.scale,
            "train_short_sides": {kind: [short for _, short in scales]} if kind else {},
            "flip": flip.prob,
            "weights": WEIGHTS[config.model.backbone.init_cfg.checkpoint],
        }
    )


def _flatten(config: dict, prefix: str = "") -> dict:
    """Dotted keys; a normalisation, which may be None, and an override of initial weights are one value."""
    flat = {}
    for key, value in config.items():
        if isinstance(value, dict) and value and key not in ("norm_cfg", "override", "dcn"):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = _plain(value)
    return flat


def _plain(value):
    """Without mmengine's own dictionaries; tuples as lists."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, list | tuple) else value


def _with_defaults(part: dict, mentioned: dict) -> dict:
    """mmdet's configuration of a part of the model, with its defaults for what ours sets."""
    defaults = {}
    for base in reversed(MODELS.get(part["type"]).__mro__):
        parameters = inspect.signature(base.__init__).parameters.values()
        defaults |= {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
    return {key: value for key, value in defaults.items() if key in mentioned and key not in part} | part
