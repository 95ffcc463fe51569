"""Figures 1 and 4: results, score maps and IoU maps of the given detectors on objects that a rule chooses."""

import argparse
import sys
from pathlib import Path

from tood.analysis.figure1 import figures
from tood.study.jobs import Execution, Figure1Job


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--job", type=Figure1Job.model_validate_json, required=True, help="as JSON")
    parser.add_argument("--execution", type=Execution.model_validate_json, required=True, help="as JSON")
    parser.add_argument("--output", type=Path, required=True, help="folder of the figures")
    args = parser.parse_args()
    try:
        figures(args.job, args.execution, args.output)
    except (RuntimeError, ValueError) as error:
        sys.exit(f"figures 1 and 4: {error}")


if __name__ == "__main__":
    main()
