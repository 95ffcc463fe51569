"""Train one run with one seed and write its weights."""

import argparse
import json
import logging
import os
import sys
import time
from pathlib import Path

import torch
from mmengine.runner import set_random_seed

from tood.files import read_json, write_json
from tood.training.config import build_model, resolve
from tood.training.data import build_dataset
from tood.training.device import choose_device
from tood.training.loop import save_model, train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=json.loads, required=True, help="of the run, as JSON")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--manifest", type=Path, required=True, help="of the checked dataset")
    parser.add_argument("--weights", type=Path, help="of the backbone; random if not given")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--state", type=Path, required=True, help="where to say how it goes")
    parser.add_argument("--records", type=Path, required=True, help="losses as JSON lines")
    parser.add_argument("--output", type=Path, required=True, help="the weights")
    args = parser.parse_args()

    write_json(args.state, {"state": "running", "pid": os.getpid(), "since": time.time()})
    try:
        summary = _train(args)
    except BaseException as error:
        write_json(args.state, {"state": "failed", "reason": f"{type(error).__name__}: {error}"})
        if isinstance(error, RuntimeError):
            sys.exit(f"train: {error}")
        raise
    write_json(args.state, {"state": "done", **summary})


def _train(args: argparse.Namespace) -> dict:
    logging.disable(logging.INFO)  # mmengine lists how each single parameter was initialised
    device = choose_device(args.device)
    torch.set_num_threads(args.threads)
    settings, manifest = args.settings, read_json(args.manifest)
    config = resolve(settings, manifest["categories"], args.weights)
    set_random_seed(args.seed)
    model = build_model(config)
    model.init_weights()
    split = settings["splits"]["train"]
    dataset = build_dataset(
        Path(manifest["root"]),
        split["annotations"],
        split["images"],
        config.classes,
        config.input.size,
        config.input.flip,
    )
    args.records.unlink(missing_ok=True)
    summary = train(
        model,
        dataset,
        config,
        seed=args.seed,
        device=device,
        records=args.records,
        label=f"train {settings['run']['id']} seed {args.seed}",
        workers=args.workers,
        iterations=settings["iterations"],
    )
    save_model(args.output, model, {"settings": settings, "seed": args.seed, "classes": config.classes})
    return {**summary, "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu"}


if __name__ == "__main__":
    main()
