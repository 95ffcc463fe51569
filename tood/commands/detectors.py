"""Options of the commands that run detectors."""

import argparse
from pathlib import Path


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
