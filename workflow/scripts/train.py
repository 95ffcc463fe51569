"""Train one run with one seed and write its weights, going on where an earlier call stopped.

Started plainly it trains in one process; `torchrun` starts several, which share each batch. How it goes
stands in the run's folder: `state.json`, `losses.jsonl`, `checkpoints/`. Where another process trains the
run, this one waits for it and takes over the result; with `--no-wait` it fails, naming the other. A run that
is finished or has diverged is not trained again while its folder is there and nothing that decides the
result has changed. The exit status is one of `tood.runtime.failures.ExitCode`.
"""

import argparse
import functools
import hashlib
import json
import logging
import math
import os
import shutil
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
from mmengine.runner import set_random_seed

from tood.data.loading import build_dataset
from tood.engine.checkpoint import Checkpoints
from tood.engine.config import build_model, resolve
from tood.engine.trainer import train, weights_of
from tood.runtime.device import choose_device, describe
from tood.runtime.distributed import any_process, is_main, join, launched
from tood.runtime.failures import (
    STATES,
    Diverged,
    ExitCode,
    StopRequest,
    exit_code,
    reason,
    survive_broken_pipes,
)
from tood.runtime.files import atomic_path, read_json, write_json
from tood.runtime.locks import claim
from tood.runtime.run_state import SILENCE_SECONDS, RunState, read_state
from tood.study.provenance import data_digest, digest, record


def main() -> None:
    survive_broken_pipes()
    stop = StopRequest()
    stop.install()
    args = _parser().parse_args()
    try:
        (_lead if is_main() else _follow)(args, stop)
    except (Exception, KeyboardInterrupt) as error:
        if not isinstance(error, RuntimeError | OSError | KeyboardInterrupt):
            traceback.print_exc()
        _say(f"{_label(args)}: {reason(error, args.folder, args.images_per_gpu)}")
        sys.exit(exit_code(error))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--settings", type=json.loads, required=True, help="of the run, as JSON")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--manifest", type=Path, required=True, help="of the checked dataset")
    parser.add_argument("--weights", type=Path, help="of the backbone; random if not given")
    parser.add_argument("--code", default="", help="digest of the code; another starts over")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--images-per-gpu", type=int, help="in one forward pass; default: all it has to do")
    parser.add_argument("--checkpoint-minutes", type=float, default=10.0, help="between checkpoints")
    parser.add_argument("--checkpoint-iterations", type=int, help="checkpoints also after every so many")
    parser.add_argument("--no-wait", action="store_true", help="fail where another process trains the run")
    parser.add_argument("--folder", type=Path, required=True, help="of the run, for all but the weights")
    parser.add_argument("--output", type=Path, required=True, help="the weights")
    return parser


def _lead(args: argparse.Namespace, stop: StopRequest) -> None:
    """The main process: sees to the run's state and results, and trains."""
    # Several processes cannot wait for long, as the others are connecting to this one meanwhile.
    patience = 0 if args.no_wait else math.inf if launched() == 1 else SILENCE_SECONDS + 60
    with claim(args.folder, wait=patience, stop=stop, say=_say):
        checkpoints = _checkpoints(args)
        path = args.folder / "state.json"
        before = read_state(path)
        same = before.get("identity") == checkpoints.identity
        if same and before["state"] == STATES[ExitCode.DIVERGED]:
            raise Diverged(before["reason"].partition(";")[0])
        if final := checkpoints.finished():
            _say(f"{_label(args)}: already trained; delete {args.folder} to train it again")
            if launched() > 1:
                _meet(args, train=False)
            if not (same and before["state"] == "done"):
                summary = torch.load(final, map_location="cpu", weights_only=True)["meta"]["training"]
                _new_state(args, checkpoints).end("done", **summary)
            _deliver(final, args.output)
            return
        state = _new_state(args, checkpoints)
        try:
            device, _ = _meet(args, train=True)
            state.beat(device=describe(device, launched()))
            content = _train(args, device, stop, checkpoints, state.beat)
            _deliver(checkpoints.finish(content), args.output)
        except BaseException as error:
            try:
                cause = reason(error, args.folder, args.images_per_gpu)
                state.end(STATES[exit_code(error)], reason=cause)
            except OSError as unwritable:
                _say(f"{path}: cannot be written either ({unwritable.strerror})")
            raise
        state.end("done", **content["meta"]["training"])


def _follow(args: argparse.Namespace, stop: StopRequest) -> None:
    """Any other process: computes what the main one wants, and writes nothing."""
    device, wanted = _meet(args, train=False)
    if wanted:
        _train(args, device, stop, _checkpoints(args), beat=lambda **news: None)


def _meet(args: argparse.Namespace, train: bool) -> tuple[torch.device, bool]:
    """This process's device, and whether a process wants to train."""
    device = choose_device(args.device)
    join(device)
    return device, any_process(train, device)


def _train(
    args: argparse.Namespace,
    device: torch.device,
    stop: StopRequest,
    checkpoints: Checkpoints,
    beat: Callable[..., None],
) -> dict:
    """Train, and return the content of the file of weights."""
    logging.disable(logging.INFO)  # mmengine lists how each single parameter was initialised
    torch.set_num_threads(args.threads)
    settings, manifest = args.settings, read_json(args.manifest)
    config = resolve(settings, manifest["categories"], args.weights)
    origin = functools.partial(
        record,
        settings=settings,
        seed=args.seed,
        config=config.to_dict(),
        manifest=manifest,
        code=args.code,
        device=describe(device, launched()),
        gpus=launched() if device.type == "cuda" else 0,
    )
    if is_main():
        write_json(args.folder / "provenance.json", origin())
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
    summary = train(
        model,
        dataset,
        config,
        seed=args.seed,
        device=device,
        records=args.folder / "losses.jsonl",
        label=_label(args),
        workers=args.workers,
        iterations=settings["iterations"],
        images_at_once=args.images_per_gpu,
        checkpoints=checkpoints,
        stop=stop,
        beat=beat,
    )
    if is_main():
        attempt = read_state(args.folder / "state.json")["attempt"]
        write_json(args.folder / "provenance.json", origin(summary={**summary, "attempt": attempt}))
    meta = {"settings": settings, "seed": args.seed, "classes": config.classes, "training": summary}
    return weights_of(model, meta)


def _checkpoints(args: argparse.Namespace) -> Checkpoints:
    """Of this training: the same configuration, seed, data, initial weights and code."""
    weights = args.weights and hashlib.sha256(args.weights.read_bytes()).hexdigest()
    parts = {"settings": args.settings, "seed": args.seed, "weights": weights, "code": args.code}
    return Checkpoints(
        args.folder / "checkpoints",
        digest({**parts, "data": data_digest(read_json(args.manifest))}),
        minutes=args.checkpoint_minutes,
        iterations=args.checkpoint_iterations,
        warn=_say if is_main() else lambda message: None,
    )


def _new_state(args: argparse.Namespace, checkpoints: Checkpoints) -> RunState:
    known = {"run": args.settings["run"]["id"], "seed": args.seed, "device": args.device}
    return RunState(args.folder / "state.json", checkpoints.identity, **known)


def _deliver(final: Path, output: Path) -> None:
    """Copy the weights to where the workflow wants them; it deletes its own outputs before a job starts."""
    with atomic_path(output) as temporary:
        shutil.copyfile(final, temporary)


def _label(args: argparse.Namespace) -> str:
    return f"train {args.settings['run']['id']} seed {args.seed}"


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
