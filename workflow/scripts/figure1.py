"""Figure 1: detections, score map and IoU map of the given detectors on one image, chosen by rule."""

import argparse
import sys
from pathlib import Path

from tood.analysis.figure1 import figure1
from tood.study.jobs import Execution, Figure1Job


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--job", type=Figure1Job.model_validate_json, required=True, help="as JSON")
    parser.add_argument("--execution", type=Execution.model_validate_json, required=True, help="as JSON")
    parser.add_argument("--png", type=Path, required=True)
    parser.add_argument("--pdf", type=Path, required=True)
    args = parser.parse_args()
    try:
        figure1(args.job, args.execution, args.png, args.pdf)
    except (RuntimeError, ValueError) as error:
        sys.exit(f"figure 1: {error}")


if __name__ == "__main__":
    main()
