"""Trainings of a few iterations on the CPU, on what `tood.data.synthetic` draws."""

import json
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.runner import set_random_seed
from torch import nn

from tood.data.synthetic import CLASSES
from tood.engine.config import build_model, resolve
from tood.engine.reports import Reports
from tood.engine.trainer import train
from tood.engine.weights import weights_of
from tood.study.jobs import Computing
from tood.study.plan import Plan

CPU = torch.device("cpu")
DRAWN = [{"id": number, "name": name} for number, name in enumerate(CLASSES, 1)]


def configured(run: str, options: dict | None = None, categories=DRAWN) -> Config:
    """The resolved configuration of a run at the scale `smoke`, with changes by dotted keys."""
    settings = Plan({}).settings(run)
    settings["run"]["options"] |= options or {}
    return resolve(settings, categories, None)


def initialised(config: Config, seed: int = 0) -> nn.Module:
    """A detector with initial weights."""
    set_random_seed(seed)
    model = build_model(config)
    model.init_weights()
    return model


def trained(dataset, folder: Path, config: Config, seed=0, model=None, **options):
    """A model after training, what `train` returned, and the entries of its loss log."""
    model = model or initialised(config, seed)
    loss_log = folder / "runs" / "losses.jsonl"
    computing = Computing(**{name: options.pop(name) for name in Computing.model_fields if name in options})
    summary = train(
        model,
        dataset,
        config,
        seed=seed,
        device=CPU,
        computing=computing,
        reports=Reports("train", loss_log),
        **options,
    )
    return model, summary, [json.loads(line) for line in loss_log.read_text().splitlines()]


def bits(model: nn.Module) -> dict[str, bytes]:
    """Every bit of the weights and buffers."""
    return {name: tensor.numpy().tobytes() for name, tensor in model.state_dict().items()}


def save_model(path: Path, model: nn.Module, meta: dict) -> None:
    """As a training leaves it."""
    path.parent.mkdir(exist_ok=True)
    torch.save(weights_of(model, meta), path)
