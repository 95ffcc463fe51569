"""Try every run of a study for a few iterations, and print what fits, how long it takes, what to type."""

import argparse
import json
import sys
from pathlib import Path

from tood.runtime.failures import one_message
from tood.study.paths import StudyPaths
from tood.study.plan import Plan
from tood.study.rehearsal import describe, write_table
from tood.study.rehearsing import rehearse_all


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", type=json.loads, required=True, help="its options, as JSON")
    parser.add_argument("--threads", type=int, required=True, help="of the process that trains")
    parser.add_argument("--analysed", nargs="*", default=[], help="runs of Table 6")
    parser.add_argument("--table", type=Path, required=True, help="CSV")
    args = parser.parse_args()
    program = [sys.executable, str(Path(__file__).with_name("rehearse_run.py"))]
    with one_message("rehearse"):
        plan = Plan(args.study)
        rows = rehearse_all(plan, args.threads, program, args.analysed, lambda line: print(line, flush=True))
        write_table(args.table, rows)
        print(
            f"\n{describe(plan, rows)}\n\n{args.table}; files of each run: {StudyPaths(plan.name).rehearsal}"
        )
        sys.exit(any(row.measured.failed for row in rows))


if __name__ == "__main__":
    main()
