"""Detect on the validation images and measure COCO AP."""

import argparse
from pathlib import Path

from tood.evaluation.evaluate import evaluate
from tood.ledger.records import write_record
from tood.runtime.failures import one_message
from tood.study.jobs import Execution, MeasuringJob
from tood.study.paths import RunPaths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--job", type=MeasuringJob.model_validate_json, required=True, help="as JSON")
    parser.add_argument("--execution", type=Execution.model_validate_json, required=True, help="as JSON")
    parser.add_argument("--folder", type=Path, required=True, help="of the run, where results are written")
    parser.add_argument("--record", type=Path, required=True, help="of the run, written")
    args = parser.parse_args()
    files = RunPaths(args.folder)
    with one_message("evaluate"):
        evaluate(args.job, args.execution, files)
        write_record(files, args.job.manifest, args.record)


if __name__ == "__main__":
    main()
