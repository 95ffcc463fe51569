"""A trained run ready to be measured: its model with its weights, and its test images."""

from dataclasses import dataclass
from pathlib import Path

import torch
from mmdet.datasets import CocoDataset
from mmdet.models.detectors import SingleStageDetector

from tood.data.loading import build_dataset
from tood.data.manifest import read_manifest
from tood.data.validation import Split
from tood.engine.config import build_model, resolve
from tood.engine.weights import load_model
from tood.runtime.device import choose_device
from tood.study.jobs import Execution, MeasuringJob


@dataclass
class Trained:
    """A model with its weights, and the images to measure it on, in its input size."""

    model: SingleStageDetector
    dataset: CocoDataset
    annotations: Path
    device: torch.device
    indices: range  # of the images to use


def load_trained(job: MeasuringJob, execution: Execution, split: Split | None = None) -> Trained:
    """Build a run's model, load its weights, and open a split.

    Args:
        job: what is measured.
        execution: how it is computed.
        split: images to measure on, with or without annotations; None takes the validation split.

    Raises:
        RuntimeError: the weights do not fit, or the device is not available.
    """
    torch.set_num_threads(execution.threads)
    device = choose_device(execution.device)
    manifest = read_manifest(job.manifest)
    config = resolve(job.settings, manifest["categories"], None)
    model = build_model(config)
    load_model(job.model, model)
    root, chosen = Path(manifest["root"]), split or Split(**job.settings["splits"]["val"])
    dataset = build_dataset(root, *chosen, config.classes, config.input.size, None)
    return Trained(
        model, dataset, root / chosen.annotations, device, indices=range(len(dataset))[: job.images]
    )
