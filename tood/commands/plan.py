"""`tood plan`: GPU-hours and disk of runs before they are trained."""

import argparse

from tood.commands.estimate import describe, estimate
from tood.commands.options import add_json, print_json


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument(
        "--tables", metavar="1,3,6", help="runs of these tables; default: the runs of the scale"
    )
    parser.add_argument("--scale", default="paper", metavar="NAME", help="default: paper")
    parser.add_argument(
        "--gpu",
        metavar="NAME",
        help="such as H100; default: what trainings here ran on, or what experiments/planning.yaml assumes",
    )
    parser.add_argument(
        "--gpus", type=_positive, default=1, metavar="K", help="GPUs that train at the same time; default: 1"
    )
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Print the estimate as text, or as JSON."""
    estimated = estimate(options.scale, options.tables, options.gpu, options.gpus)
    if options.json:
        print_json(estimated)
    else:
        print(describe(estimated))
    return 0


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no whole number above 0")
    return int(text)
