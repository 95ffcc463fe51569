"""Options that several commands have."""

import argparse
import contextlib
from pathlib import Path
from typing import Any

from tood.runtime.failures import InputError
from tood.runtime.files import to_json

FORMATS = (".png", ".pdf", ".svg")


def add_study(parser: argparse.ArgumentParser) -> None:
    """The name of a study that was called here."""
    parser.add_argument(
        "--name", metavar="STUDY", help="name of the study; default: the study that was called last"
    )


def add_config(parser: argparse.ArgumentParser) -> None:
    """Options of a study, as for the workflow."""
    parser.add_argument(
        "--config",
        nargs="*",
        default=[],
        metavar="KEY=VALUE",
        help="options of the study, as for the workflow",
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """Output for programs."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def print_json(value: Any) -> None:
    """Print what `--json` asks for; `null` for numbers that are nan or infinite."""
    print(to_json(value, indent=2, ensure_ascii=False))


def share(text: str) -> float:
    """A number from 0 to 1, such as a score."""
    with contextlib.suppress(ValueError):
        if 0 <= (value := float(text)) <= 1:
            return value
    raise argparse.ArgumentTypeError(f"{text} is no number from 0 to 1")


def require_file(path: Path | str, option: str = "") -> None:
    """That a file is there; `option` has its name, and none where the file is a word of its own."""
    if not Path(path).is_file():
        raise InputError(f"{option} {path}: no such file".lstrip())


def require_format(options: argparse.Namespace) -> None:
    """That a figure can be written in the format that the suffix of `output` says."""
    if options.output.suffix not in FORMATS:
        raise InputError(f"--output {options.output}: must end in {', '.join(FORMATS[:-1])} or {FORMATS[-1]}")
