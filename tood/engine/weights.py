"""Initial weights: drawn part by part, or ImageNet's, and whether a file is of this backbone."""

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
    """Where mmdet's configurations take weights from, and the start of their sha256 (empty if unknown).

    Args:
        name: such as resnet50 or resnet50_caffe.
    """
    if name in _OPEN_MMLAB:
        url = get_external_models()[_OPEN_MMLAB[name]]
    else:  # torchvision's first ones, which the paper's code used, have the plain name
        url = get_torchvision_models()[name]
    digest = re.search(r"-([0-9a-f]{8,})\.", url)
    return url, digest.group(1) if digest else ""


@CheckpointLoader.register_scheme(prefixes="", force=True)
def _read_for_mmengine(filename: str, map_location: Any = None) -> dict:
    """What mmengine loads from a path. Its own reader executes a file that it cannot read safely."""
    return {"state_dict": read_weights(Path(filename)).state_dict}


def require_backbone(path: Path, backbone: nn.Module) -> None:
    """Make sure that a file has every weight of a backbone; mmengine only logs those that it does not find.

    Offsets of deformable layers and counters of batches are in no such file.

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
