"""Evaluate, and in the same pass measure how well classification and localisation agree."""

import argparse
from pathlib import Path

from tood.analysis.table6.measurement import analyse
from tood.ledger.records import write_record
from tood.runtime.failures import one_message
from tood.study.jobs import AnalysisJob, Execution
from tood.study.paths import RunPaths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--job", type=AnalysisJob.model_validate_json, required=True, help="as JSON")
    parser.add_argument("--execution", type=Execution.model_validate_json, required=True, help="as JSON")
    parser.add_argument("--folder", type=Path, required=True, help="of the run, where results are written")
    parser.add_argument("--record", type=Path, required=True, help="of the run, written")
    args = parser.parse_args()
    files = RunPaths(args.folder)
    with one_message("evaluate"):
        analyse(args.job, args.execution, files)
        write_record(files, args.job.manifest, args.record)


if __name__ == "__main__":
    main()
