"""Detect on the validation images and measure COCO AP."""

import argparse
import sys
from pathlib import Path

from tood.evaluation.evaluate import evaluate
from tood.study.jobs import Execution, MeasuringJob


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--job", type=MeasuringJob.model_validate_json, required=True, help="as JSON")
    parser.add_argument("--execution", type=Execution.model_validate_json, required=True, help="as JSON")
    parser.add_argument("--detections", type=Path, required=True, help="COCO results, written")
    parser.add_argument("--output", type=Path, required=True, help="metrics, written")
    args = parser.parse_args()
    try:
        evaluate(args.job, args.execution, args.detections, args.output)
    except RuntimeError as error:
        sys.exit(f"evaluate: {error}")


if __name__ == "__main__":
    main()
