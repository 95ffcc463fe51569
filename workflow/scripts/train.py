"""Train one run with one seed; the exit status is a `tood.runtime.failures.ExitCode`."""

import argparse
import sys
from pathlib import Path

from tood.engine.job import run_training
from tood.ledger.records import write_record
from tood.runtime.failures import ExitCode, one_message
from tood.study.jobs import Execution, TrainingJob
from tood.study.paths import RunPaths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--job", type=TrainingJob.model_validate_json, required=True, help="as JSON")
    parser.add_argument("--execution", type=Execution.model_validate_json, required=True, help="as JSON")
    parser.add_argument("--folder", type=Path, required=True, help="of the run, for all but the weights")
    parser.add_argument("--record", type=Path, help="written where the training diverges")
    parser.add_argument("--output", type=Path, required=True, help="the weights")
    args = parser.parse_args()
    ended = run_training(args.job, args.execution, args.folder, args.output)
    if ended == ExitCode.DIVERGED and args.record:
        with one_message(f"train {args.job.run}"):
            write_record(RunPaths(args.folder), args.job.manifest, args.record)
    sys.exit(ended)


if __name__ == "__main__":
    main()
