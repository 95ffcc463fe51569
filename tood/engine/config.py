"""From a declared run and a study to the complete configuration of one training."""

from pathlib import Path

import torch
from mmdet.models.detectors import SingleStageDetector
from mmdet.models.task_modules.prior_generators import AnchorGenerator
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import set_random_seed
from torch import nn

import tood.models  # noqa: F401 - registers what configurations name as tood.*
from tood.engine.registered import MODEL_PARTS, require_registered
from tood.engine.weights import draw_weights, require_backbone
from tood.study.declarations import ExperimentError
from tood.study.paths import CONFIGS
from tood.study.settings import Settings


def resolve(settings: Settings, categories: list[dict], weights: Path | None) -> Config:
    """The configuration of one run: its file, then the scale's changes, then the run's own options.

    If these change the input size, the shorter sides of training change in proportion.

    Args:
        settings: as `tood.study.plan.Plan.settings` returns them.
        categories: categories of the dataset; the model has as many classes.
        weights: file of the backbone's initial weights; None draws random ones.

    Raises:
        ExperimentError: the run's configuration, which is a program, is not in the suite's folder.
    """
    run = settings["run"]
    path = (CONFIGS / run["config"]).resolve()
    if not path.is_relative_to(CONFIGS.resolve()):
        raise ExperimentError(
            f"{run['id']}: its configuration {path} lies outside of {CONFIGS}; move it there"
        )
    config = Config.fromfile(path)
    published = config.input.size
    # A head without normalisation may have None, into which a scale's mapping cannot be merged.
    if config.model.bbox_head.get("norm_cfg", {}) is None:
        del config.model.bbox_head["norm_cfg"]
    config.merge_from_dict({key: settings[key] for key in ("model", "input", "train")})
    config.model.bbox_head.merge(settings["heads"].get(config.model.bbox_head.type, {}))
    config.merge_from_dict(run["options"])
    if config.input.train_short_sides and config.input.size != published:
        factor = config.input.size[1] / published[1]
        ((kind, sides),) = config.input.train_short_sides.items()
        config.input.train_short_sides = {kind: [round(side * factor) for side in sides]}
    # Replicas must fill a batch of any size that a scale or a study sets.
    fitting = (n for n in range(min(config.train.replica, config.train.batch_size), 0, -1))
    config.train.replica = next(n for n in fitting if config.train.batch_size % n == 0)
    config.model.bbox_head.num_classes = len(categories)
    config.model.backbone.init_cfg = (
        None if weights is None else dict(type="Pretrained", checkpoint=str(weights))
    )
    config.classes = [category["name"] for category in categories]
    config.schedule = dict(epochs=run["epochs"], milestones=list(run["milestones"]))
    return config


def build_model(config: Config) -> SingleStageDetector:
    """The detector of a configuration; its weights are not initialised yet.

    Raises:
        ExperimentError: the configuration names anything but classes that are registered for models.
    """
    init_default_scope("mmdet")
    require_registered(config.model, "model", MODEL_PARTS)
    return MODELS.build(config.model)


def initial_model(config: Config, weights: Path | None, seed: int) -> SingleStageDetector:
    """The detector that a training begins with.

    Args:
        config: resolved configuration.
        weights: file of the backbone's weights, which `config` names; None: random ones.
        seed: of the training.

    Raises:
        RuntimeError: the file is not of this backbone, see `require_backbone`.
    """
    set_random_seed(seed)  # layers without a recipe keep what is drawn when they are built
    model = build_model(config)
    if weights:
        require_backbone(weights, model.backbone)
    draw_weights(model, seed)
    return model


def place_anchors(head: nn.Module, device: torch.device) -> None:
    """Keep the anchors of a head on the device; mmdet would copy them there in each step."""
    for generator in vars(head).values():
        if isinstance(generator, AnchorGenerator):
            generator.base_anchors = [anchors.to(device) for anchors in generator.base_anchors]
