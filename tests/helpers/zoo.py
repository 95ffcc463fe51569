"""Files as mmdetection's zoo and the TOOD authors published them, with mmdet's own models in them."""

import copy
import functools
import hashlib
from pathlib import Path

import torch
import yaml
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.config import Config
from torch import nn

from helpers.mmdet_heads import MMDET_CONFIGS

# Of the head: mmdet's name, the authors'
AUTHORS = {
    "layer_attention.0": "la_conv1",
    "layer_attention.2": "la_conv2",
    "cls_prob_module.0": "cls_prob_conv1",
    "cls_prob_module.2": "cls_prob_conv2",
    "reg_offset_module.0": "reg_offset_conv1",
    "reg_offset_module.2": "reg_offset_conv2",
}


@functools.cache
def _entries() -> dict[str, dict]:
    """What mmdet's metafiles say of each file of weights."""
    found = {}
    for metafile in MMDET_CONFIGS.glob("*/metafile.yml"):
        content = yaml.load(metafile.read_text(), Loader=yaml.CSafeLoader)
        for model in content["Models"] if isinstance(content, dict) else content:
            if isinstance(address := model.get("Weights"), str):
                found[address.rsplit("/", 1)[-1]] = model
    return found


def stated_ap(file: str) -> float:
    """Box AP of a file as mmdet's metafiles have it, in percent."""
    results = _entries()[file]["Results"]
    return next(result["Metrics"]["box AP"] for result in results if result["Task"] == "Object Detection")


def zoo_config(file: str) -> Config:
    """mmdet's configuration of a published file."""
    return Config.fromfile(MMDET_CONFIGS / _entries()[file]["Config"].removeprefix("configs/"))


def mmdet_model(config: Config) -> nn.Module:
    """mmdet's detector of a configuration, with random weights and statistics, the same at each call."""
    register_all_modules(init_default_scope=True)
    described = copy.deepcopy(config.model)
    described.backbone.init_cfg = None
    torch.manual_seed(0)
    model = MODELS.build(described)
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(std=0.1)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
        for name, parameter in model.named_parameters():
            if name.endswith("conv_offset.weight"):  # zero at first
                parameter.normal_(std=0.01)
    return model.eval()


def in_authors_names(state_dict: dict) -> dict:
    """A state dict of mmdet's TOOD with the names of the authors' release."""
    renamed = {}
    for name, tensor in state_dict.items():
        for theirs, authors in AUTHORS.items():
            name = name.replace(f"{theirs}.", f"{authors}.")
        renamed[name] = tensor
    return renamed


def with_optimizer(model: nn.Module) -> dict:
    """The state of an optimiser that has taken a step, momenta included."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    return optimizer.state_dict()


def publish(content: dict, folder: Path, stem: str, old: bool = False) -> Path:
    """Save a file, and name it as published ones are named: `STEM-HASH.pth`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{stem}.pth"
    torch.save(content, path, _use_new_zipfile_serialization=not old)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return path.rename(folder / f"{stem}-{digest[:8]}.pth")
