"""`tood complexity`: parameters and FLOPs of the paper's models."""

import argparse
import csv
from pathlib import Path

from tood.runtime.files import atomic_path
from tood.runtime.quiet import silent
from tood.runtime.text import aligned


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--convention", default="paper", choices=["paper", "modern"])
    parser.add_argument("--output", type=Path, metavar="FILE", help="CSV; default: results/paper/")


def run(options: argparse.Namespace) -> int:
    """Write the counts, and print them."""
    with silent():
        from tood.analysis.complexity import Complexity, of_runs

        rows = [(run, *(f"{value:.6f}" for value in counts)) for run, counts in of_runs(options.convention)]
    default = "complexity.csv" if options.convention == "paper" else f"complexity_{options.convention}.csv"
    output = options.output or Path("results/paper") / default
    header = ("run", *Complexity._fields)
    with atomic_path(output) as temporary, temporary.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    print(aligned([header, *rows], right=range(1, len(header))))
    print(f"written to {output}")
    return 0
