"""`tood scores`: the entry for `experiments/server_scores.yaml` from the answer of COCO's server."""

import argparse
from pathlib import Path

from tood.ledger.server_scores import entry
from tood.study.declarations import ExperimentError, load_runs


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("file", type=Path, metavar="FILE", help="stdout.txt of COCO's server")
    parser.add_argument("--run", required=True, metavar="RUN", help="whose detections were submitted")
    parser.add_argument("--source", required=True, metavar="TEXT", help="which server, when, which file")
    parser.add_argument("--name", default="paper", metavar="STUDY", help="study of the run; default: paper")
    parser.add_argument("--seed", type=int, default=0, metavar="K", help="seed of the run; default: 0")


def run(options: argparse.Namespace) -> int:
    """Print the entry."""
    try:
        text = options.file.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise ExperimentError(f"{options.file}: cannot be read: {error.strerror}") from error
    try:
        print(entry(text, options.run, options.name, options.seed, options.source, load_runs()))
    except ExperimentError as error:
        raise ExperimentError(f"{options.file}: {error}") from None
    return 0
