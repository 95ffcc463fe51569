"""Options of the commands that run detectors."""

import argparse
from collections.abc import Iterable
from pathlib import Path

from tood.ledger.status import trained_weights
from tood.runtime.failures import InputError


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
    command.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])


def require_detectors(
    runs: Iterable[str], checkpoints: Iterable[Path], study: str | None, seed: int | None
) -> None:
    """That the files of detectors are there, which takes less time than to import what reads them.

    Args:
        runs: that are trained.
        checkpoints: files of weights.
        study, seed: as for `trained_weights`.
    """
    for path in checkpoints:
        if not path.is_file():
            raise InputError(f"--checkpoint {path}: no such file")
    for run in runs:
        trained_weights(run, study, seed)
