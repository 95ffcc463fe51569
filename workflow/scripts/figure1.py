"""Figures 1 and 4: results, score maps and IoU maps of the given detectors on objects that a rule chooses."""

import argparse
from pathlib import Path

from tood.analysis.figures.figure1 import figures
from tood.runtime.failures import one_message
from tood.study.jobs import Execution, Figure1Job


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--job", type=Figure1Job.model_validate_json, required=True, help="as JSON")
    parser.add_argument("--execution", type=Execution.model_validate_json, required=True, help="as JSON")
    parser.add_argument("--output", type=Path, required=True, help="folder of the figures")
    args = parser.parse_args()
    with one_message("figures 1 and 4"):
        figures(args.job, args.execution, args.output)


if __name__ == "__main__":
    main()
