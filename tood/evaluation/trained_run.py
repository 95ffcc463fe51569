"""A trained run as the evaluation scripts want it: its model, its test images, its categories."""

import argparse
import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from mmdet.datasets import CocoDataset
from mmdet.models.detectors import SingleStageDetector

from tood.data.loading import build_dataset
from tood.engine.config import build_model, resolve
from tood.engine.trainer import load_model
from tood.runtime.device import choose_device
from tood.runtime.files import read_json


@dataclass
class Trained:
    """A model with its weights, and the validation images in its input size."""

    model: SingleStageDetector
    dataset: CocoDataset
    annotations: Path
    device: torch.device
    indices: range  # of the images to use


def load_trained(args: argparse.Namespace, which: int = 0) -> Trained:
    """Build a run's model, load its weights, and open the validation split.

    Args:
        args: of `evaluation_parser`.
        which: of the runs it names.

    Raises:
        RuntimeError: the weights do not fit, or the device is not there.
    """
    settings, manifest = args.settings[which], args.manifest
    torch.set_num_threads(args.threads)
    device = choose_device(args.device)
    config = resolve(settings, manifest["categories"], None)
    model = build_model(config)
    load_model(args.model[which], model)
    root, split = Path(manifest["root"]), settings["splits"]["val"]
    dataset = build_dataset(
        root, split["annotations"], split["images"], config.classes, config.input.size, None
    )
    indices = range(len(dataset))[: args.images]
    return Trained(model, dataset, root / split["annotations"], device, indices)


def evaluation_parser(description: str) -> argparse.ArgumentParser:
    """The arguments every script takes that looks at trained runs."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--settings", type=json.loads, action="append", required=True, help="of a run, as JSON"
    )
    parser.add_argument("--model", type=Path, action="append", required=True, help="weights of that run")
    parser.add_argument("--manifest", type=read_json_file, required=True, help="of the checked dataset")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--images", type=int, help="use only the first so many")
    return parser


def read_json_file(name: str) -> dict:
    """An argparse type: the JSON in the file of that name."""
    return read_json(Path(name))
