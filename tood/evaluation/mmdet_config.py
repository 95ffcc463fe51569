"""Configuration files of mmdet, and which of their detectors can be used here.

Such a file is a program. The user names it, and it is executed. As everywhere, only registered classes are
built from it.
"""

from collections.abc import Mapping
from pathlib import Path

import mmdet
import torch
from mmdet.models.detectors import SingleStageDetector
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.config import Config

from tood.engine.config import build_model
from tood.engine.registered import IMAGE_STEPS, MODEL_PARTS, require_registered
from tood.evaluation.mmdet_levels import reader_problem
from tood.models.common.dense_prediction import DensePredictionMixin
from tood.runtime.quiet import quiet
from tood.study.declarations import ExperimentError, load_runs, unknown_run

ZOO = Path(mmdet.__file__).parent / ".mim" / "configs"


def of_mmdet(given: str) -> tuple[SingleStageDetector, list[dict]]:
    """The model of a configuration file, with random weights, and its transforms of test images.

    Args:
        given: a path, or a name in mmdet's own folder.

    Raises:
        ExperimentError: there is no such file, or it describes no dense detector.
    """
    path = next((path for path in (Path(given), ZOO / given) if path.is_file()), None)
    if path is None:
        raise ExperimentError(
            f"--config {given}: is no file, no file in mmdet's folder of configurations, such as "
            f"atss/atss_r50_fpn_1x_coco.py, and no run; {unknown_run(given, load_runs())}"
        )
    quiet()
    try:
        register_all_modules(init_default_scope=True)
        config = Config.fromfile(path)
        head, backbone = config.model.bbox_head, config.model.backbone
        steps = config.get("test_pipeline") or config.test_dataloader.dataset.pipeline
        left_out = ("LoadImageFromFile", "LoadAnnotations")
        transforms = [dict(step) for step in steps if step["type"].split(".")[-1] not in left_out]
    except Exception as error:  # a configuration is a program
        raise ExperimentError(
            f"--config {given}: cannot be read as a configuration of a dense detector with a `bbox_head` "
            f"and a `test_pipeline` ({type(error).__name__}: {error})"
        ) from error
    if not isinstance(head, Mapping):
        raise ExperimentError(f"--config {given}: has several heads; a dense detector has one")
    backbone.init_cfg = None
    try:
        require_registered(config.model, "model", MODEL_PARTS)
        require_registered(transforms, "test_pipeline", IMAGE_STEPS)
        if not hasattr(MODELS.get(config.model.type), "extract_feat"):
            raise ExperimentError(f"{config.model.type} is no detector with features and a head")
        model = build_model(config)
        if problem := _problem(model):
            raise ExperimentError(problem)
    except ExperimentError as error:
        raise ExperimentError(f"--config {given}: {error}") from error
    except Exception as error:  # a key or a number that a part of the model does not accept
        raise ExperimentError(f"--config {given}: no model can be built of it: {error}") from error
    return model, transforms


def _problem(model: SingleStageDetector) -> str | None:
    """Why a model cannot be used here; None if it can."""
    head = model.bbox_head
    if isinstance(head, DensePredictionMixin):
        return None
    if problem := reader_problem(head):
        return f"{problem}, so its maps cannot be read; `tood runs` lists heads that can"
    if (kind := head.test_cfg.get("nms", {}).get("type", "nms")) != "nms":
        return f"its NMS is {kind!r}; only 'nms' is computed here"
    try:
        with torch.no_grad():
            model.eval()
            head(model.extract_feat(torch.zeros(1, 3, 64, 64)))
    except Exception as error:
        return (
            f"its model cannot be computed here ({error}); if the suite has its own model for these weights, "
            "give the id of its run as --config, such as tood_af"
        )
    return None
