"""Weights: drawn part by part or read from a file, where a training begins; and what it gives."""

import re
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.model import BaseModule
from mmengine.runner import set_random_seed
from mmengine.runner.checkpoint import CheckpointLoader, get_external_models, get_torchvision_models
from torch import nn

from tood.runtime.weight_file import WeightFileError, read_weights

# Names that are not torchvision's: as mmdet's configurations call them, after open-mmlab://
_OPEN_MMLAB = {
    "resnet50_caffe": "detectron2/resnet50_caffe",
    "resnet50_caffe_detectron": "detectron/resnet50_caffe",
    "resnet101_caffe": "detectron2/resnet101_caffe",
    "resnext101_32x4d": "resnext101_32x4d",
    "resnext101_64x4d": "resnext101_64x4d",
}
_INSTEAD = "put the file of the run's `weights` there, or remove it to have it fetched"


def draw_weights(model: nn.Module, seed: int) -> None:
    """Initialise each part of a detector by a generator of its own, which seed and the part's name decide.

    So detectors with different heads begin with the same weights in the backbone and neck that they share.
    Afterwards the generators are as if nothing had been drawn.

    Args:
        model: built after the generators were seeded, as layers without a recipe keep what was drawn then.
        seed: of the training.
    """
    for name, part in model.named_children():
        if isinstance(part, BaseModule):
            set_random_seed(int(np.random.SeedSequence([seed, *name.encode()]).generate_state(1)[0]))
            part.init_weights()
    set_random_seed(seed)


def address(name: str) -> tuple[str, str]:
    """The source of weights in mmdet's configurations, and the start of their sha256 (empty if unknown).

    Args:
        name: such as resnet50 or resnet50_caffe.
    """
    if name in _OPEN_MMLAB:
        url = get_external_models()[_OPEN_MMLAB[name]]
    else:  # torchvision's first weights, which the paper's code used, have the plain name
        url = get_torchvision_models()[name]
    digest = re.search(r"-([0-9a-f]{8,})\.", url)
    return url, digest.group(1) if digest else ""


@CheckpointLoader.register_scheme(prefixes="", force=True)
def _read_for_mmengine(filename: str, map_location: Any = None) -> dict:
    """The weights of a path for mmengine, whose own reader executes a file that it cannot read safely."""
    return {"state_dict": read_weights(Path(filename)).state_dict}


def require_backbone(path: Path, backbone: nn.Module) -> None:
    """Make sure that a file has every weight of a backbone; mmengine only logs missing weights.

    No such file has offsets of deformable layers or counters of batches.

    Args:
        path: file of the initial weights.
        backbone: built from the same configuration; not changed.

    Raises:
        RuntimeError: the file cannot be read, lacks weights, or has some of another shape.
    """
    try:
        shapes = {name: tensor.shape for name, tensor in read_weights(path).state_dict.items()}
    except WeightFileError as error:
        raise RuntimeError(f"{error}; {_INSTEAD}") from error
    wanted = {
        name: tensor.shape
        for name, tensor in backbone.state_dict().items()
        if "conv_offset" not in name and not name.endswith("num_batches_tracked")
    }
    if wrong := [name for name, shape in wanted.items() if shapes.get(name) != shape]:
        raise RuntimeError(
            f"{path}: {len(wrong)} of the backbone's {len(wanted)} weights are absent or of another shape, "
            f"such as {wrong[0]}; {_INSTEAD}"
        )


def weights_of(model: nn.Module, meta: dict) -> dict:
    """What a file of weights holds, in mmdet's layout: `state_dict` and `meta`."""
    return {"state_dict": {name: tensor.cpu() for name, tensor in model.state_dict().items()}, "meta": meta}


def load_model(path: Path, model: nn.Module) -> dict:
    """Load what `weights_of` gave from a file, every one of the weights, and return their meta.

    Raises:
        RuntimeError: the file does not fit the model, or is no checkpoint.
    """
    try:
        content = read_weights(path)
        model.load_state_dict(content.state_dict, strict=True)
    except RuntimeError as error:
        raise RuntimeError(f"{path}: cannot be loaded into this run's model: {error}") from error
    if not isinstance(content.meta, dict):
        raise RuntimeError(f"{path}: cannot be loaded into this run's model: it does not say what it is of")
    return content.meta
