"""Detect on images without annotations and write a submission for COCO's server."""

import argparse
from pathlib import Path

from tood.evaluation.submitted_run import write_submission
from tood.runtime.failures import one_message
from tood.study.jobs import Execution, SubmissionJob


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--job", type=SubmissionJob.model_validate_json, required=True, help="as JSON")
    parser.add_argument("--execution", type=Execution.model_validate_json, required=True, help="as JSON")
    parser.add_argument("--output", type=Path, required=True, help="zip, written")
    args = parser.parse_args()
    with one_message("submission"):
        number = write_submission(args.job, args.execution, args.output)
    print(f"{args.output}: {number} detections")


if __name__ == "__main__":
    main()
