"""Options that several commands have."""

import argparse
from pathlib import Path

from tood.runtime.failures import InputError

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


def share(text: str) -> float:
    """A number from 0 to 1, such as a score."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is no number from 0 to 1")
    return value


def require_file(path: Path | str, option: str = "") -> None:
    """That a file is there; `option` has its name, and none where the file is a word of its own."""
    if not Path(path).is_file():
        raise InputError(f"{option} {path}: no such file".lstrip())


def require_format(options: argparse.Namespace) -> None:
    """That a figure can be written in the format that the suffix of `output` says."""
    if options.output.suffix not in FORMATS:
        raise InputError(f"--output {options.output}: must end in {', '.join(FORMATS[:-1])} or {FORMATS[-1]}")
