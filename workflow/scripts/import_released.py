"""Write released weights as the model of a run."""

import argparse
from pathlib import Path

from tood.evaluation.importing import run_import
from tood.runtime.failures import one_message
from tood.study.jobs import ImportJob
from tood.study.released import ReleasedFile


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--job", type=ImportJob.model_validate_json, required=True, help="as JSON")
    parser.add_argument("--released", type=ReleasedFile.model_validate_json, required=True, help="as JSON")
    parser.add_argument("--folder", type=Path, required=True, help="of the run, for all but the weights")
    parser.add_argument("--output", type=Path, required=True, help="the weights")
    args = parser.parse_args()
    with one_message(f"import {args.job.run}"):
        run_import(args.job, args.released, args.folder, args.output)


if __name__ == "__main__":
    main()
