"""Options of the commands that run detectors."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tood.commands.options import require_file
from tood.ledger.status import trained_weights
from tood.study.plan import Plan

if TYPE_CHECKING:
    from tood.evaluation.detector import Detector


def add_detectors(command: argparse.ArgumentParser, several: bool) -> None:
    """Options that name detectors."""
    action, more = ("append", "; may be repeated") if several else ("store", "")
    of = command if several else command.add_mutually_exclusive_group(required=True)
    of.add_argument("--run", action=action, metavar="RUN", help=f"of a study, such as tood_af{more}")
    of.add_argument(
        "--checkpoint",
        action=action,
        type=Path,
        metavar="FILE",
        help=f"weights of this suite, of the authors or of mmdet{more}",
    )
    command.add_argument(
        "--config",
        action=action,
        metavar="CFG",
        help="of FILE, where it does not say it: id of a run, or a configuration file of mmdet",
    )
    command.add_argument("--seed", type=int, metavar="K", help="of the run; default: the study's first")


def add_device(command: argparse.ArgumentParser) -> None:
    """Where detectors compute."""
    command.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])


def require_detectors(options: argparse.Namespace) -> None:
    """That the files of the detectors are there, which takes less time than to import what reads them."""
    for path in _listed(options.checkpoint):
        require_file(path, "--checkpoint")
    for run in _listed(options.run):
        trained_weights(run, options.name, options.seed)


def load(options: argparse.Namespace, device: str) -> "tuple[list[Detector], Plan | None]":
    """The detectors that the options name, as `tood.evaluation.detector.load_detectors` has them."""
    from tood.evaluation.detector import load_detectors

    return load_detectors(
        runs=_listed(options.run),
        checkpoints=_listed(options.checkpoint),
        configs=_listed(options.config),
        study=options.name,
        seed=options.seed,
        device=device,
    )


def _listed(value: Any) -> list:
    """The values of an option that may be repeated or not."""
    return value if isinstance(value, list) else [] if value is None else [value]
