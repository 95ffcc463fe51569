"""Where each object is classified best and localised best by a trained run."""

import argparse
import sys
from pathlib import Path

from tood.analysis.best_anchors import measure
from tood.study.jobs import Execution, MeasuringJob


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--job", type=MeasuringJob.model_validate_json, required=True, help="as JSON")
    parser.add_argument("--execution", type=Execution.model_validate_json, required=True, help="as JSON")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    try:
        measure(args.job, args.execution, args.output)
    except RuntimeError as error:
        sys.exit(f"best anchors: {error}")


if __name__ == "__main__":
    main()
