"""Evaluate, and in the same pass measure Table 6: how well classification and localisation agree."""

import argparse
import sys
from pathlib import Path

from tood.analysis.table6 import analyse
from tood.study.jobs import AnalysisJob, Execution


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--job", type=AnalysisJob.model_validate_json, required=True, help="as JSON")
    parser.add_argument("--execution", type=Execution.model_validate_json, required=True, help="as JSON")
    parser.add_argument("--detections", type=Path, required=True, help="COCO results, written")
    parser.add_argument("--ap", type=Path, required=True, help="metrics, written")
    parser.add_argument("--output", type=Path, required=True, help="columns of Table 6, written")
    parser.add_argument("--variants", type=Path, required=True, help="other readings, written")
    args = parser.parse_args()
    try:
        analyse(args.job, args.execution, args.detections, args.ap, args.output, args.variants)
    except RuntimeError as error:
        sys.exit(f"evaluate: {error}")


if __name__ == "__main__":
    main()
