"""One page with everything that a study shows; nothing has to be complete."""

import argparse
import json
from pathlib import Path

from tood.report.page import write_report
from tood.runtime.failures import one_message
from tood.study.plan import Plan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", type=json.loads, required=True, help="its options, as JSON")
    parser.add_argument("--figures", type=Path, nargs="*", default=[], help="PNG")
    parser.add_argument(
        "--absent", type=json.loads, default={}, help="why there is no figure of a name, as JSON"
    )
    args = parser.parse_args()
    with one_message("report"):
        write_report(Plan(args.study), args.figures, args.absent)


if __name__ == "__main__":
    main()
