"""Collect what the runs measured into metrics.csv and render every table; nothing has to be complete."""

import argparse
import json
from pathlib import Path

from tood.report.metrics import write_results
from tood.runtime.failures import one_message
from tood.study.plan import Plan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", type=json.loads, required=True, help="its options, as JSON")
    parser.add_argument("--complexity", type=Path, required=True, help="CSV of all models")
    args = parser.parse_args()
    with one_message("tables"):
        write_results(Plan(args.study), args.complexity)


if __name__ == "__main__":
    main()
