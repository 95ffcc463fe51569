"""The folder whose studies a command reads, wherever it is typed."""

import argparse
import glob
import os
import sys
from pathlib import Path
from typing import Any

from tood.ledger.studies import any_study
from tood.runtime.failures import InputError
from tood.study.paths import EXPERIMENTS, REPOSITORY

_RULES = "Snakefile"
_FILES = ("image", "images", "config")  # options with text that may name files
PATH_OPTIONS = ("data_root", "released")  # of `--config`; a test compares them with those of a study


def require_clone() -> None:
    """That the package is in a clone, with the experiments beside it.

    Raises:
        InputError: it was installed without them.
    """
    if not EXPERIMENTS.is_dir():
        raise InputError(
            f"this command reads the experiments of the repository, and the package in {REPOSITORY} was "
            "installed without them. Run this in a clone: clone the repository, type `make env` there, and "
            "activate its .venv"
        )


def enter_clone(options: argparse.Namespace) -> None:
    """Make the clone of this package the current folder, unless the current one has studies.

    Files that the options name stay those that were meant.
    """
    here = Path.cwd()
    if Path(_RULES).exists() or any_study() or not (REPOSITORY / _RULES).is_file():
        return
    for name, value in vars(options).items():
        setattr(options, name, _from(here, name, value))
    os.chdir(REPOSITORY)
    print(f"tood: no study was called in {here}; this is about the studies in {REPOSITORY}", file=sys.stderr)


def _from(folder: Path, name: str, value: Any) -> Any:
    """The value of an option with its path from the root, if it is a path."""
    if isinstance(value, list):
        return [_from(folder, name, entry) for entry in value]
    if isinstance(value, Path):
        return folder / value
    if name not in _FILES or not isinstance(value, str):
        return value
    option, _, path = value.partition("=")
    if option in PATH_OPTIONS and path:
        return f"{option}={folder / path}"
    if glob.glob(value):
        return str(folder / value) if Path(value).exists() else str(Path(glob.escape(str(folder))) / value)
    return value
