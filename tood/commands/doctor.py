"""`tood doctor`: what this machine and its environment lack, and what to do about it."""

import argparse
from dataclasses import asdict
from pathlib import Path

from tood.commands import checks, findings
from tood.commands.options import add_json, print_json


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument(
        "--data-root", type=Path, metavar="PATH", help="folder of a dataset in the COCO layout"
    )
    parser.add_argument("--scale", metavar="NAME", help="check the data of this scale alone, and require it")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Print what was found; 1 where something required is missing."""
    results = checks.examine(options.data_root, options.scale)
    if options.json:
        print_json([asdict(finding) for finding in results])
    else:
        findings.show(results)
    return int(findings.lacks_required(results))
