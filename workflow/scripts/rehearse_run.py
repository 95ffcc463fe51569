"""Try one run of a study for a few iterations; the exit status is 1 where it failed."""

import argparse
import sys
from pathlib import Path

from tood.analysis.rehearsal import rehearse
from tood.study.jobs import Execution, RehearsalJob


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--job", type=RehearsalJob.model_validate_json, required=True, help="as JSON")
    parser.add_argument("--execution", type=Execution.model_validate_json, required=True, help="as JSON")
    parser.add_argument("--digest", default="", help="of both")
    parser.add_argument("--output", type=Path, required=True, help="what is known of the run, JSON")
    args = parser.parse_args()
    sys.exit(bool(rehearse(args.job, args.execution, args.output, args.digest).failed))


if __name__ == "__main__":
    main()
