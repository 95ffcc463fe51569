"""`tood import`: a file of released weights as the model of a run."""

import argparse
from pathlib import Path

from tood.commands.options import add_config, require_file
from tood.runtime.quiet import silent
from tood.study.options import parse_options


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("file", type=Path, metavar="FILE", help="of mmdet or of the authors")
    parser.add_argument(
        "--run", required=True, metavar="RUN", help="id such as tood_af; `tood runs` lists them"
    )
    parser.add_argument("--near", action="store_true", help="also if it is declared as of another recipe")
    add_config(parser)


def run(options: argparse.Namespace) -> int:
    """Take the file, and print what was done."""
    given = parse_options(options.config)
    require_file(options.file)
    with silent():
        from tood.evaluation.importing import import_file

        sentence = import_file(options.file, options.run, given, options.near)
    print(sentence)
    return 0
