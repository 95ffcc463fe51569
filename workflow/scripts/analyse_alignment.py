"""Table 6: how well classification and localisation agree, before NMS and after."""

import argparse
import sys
from pathlib import Path

from tood.analysis.table6 import analyse
from tood.study.jobs import Execution, MeasuringJob


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--job", type=MeasuringJob.model_validate_json, required=True, help="as JSON")
    parser.add_argument("--execution", type=Execution.model_validate_json, required=True, help="as JSON")
    parser.add_argument("--detections", type=Path, required=True, help="as evaluate.py wrote them")
    parser.add_argument("--output", type=Path, required=True, help="metrics, written")
    parser.add_argument("--variants", type=Path, required=True, help="other readings, written")
    args = parser.parse_args()
    try:
        analyse(args.job, args.execution, args.detections, args.output, args.variants)
    except RuntimeError as error:
        sys.exit(f"analyse: {error}")


if __name__ == "__main__":
    main()
