"""One page with every table and figure of a study."""

import argparse
from pathlib import Path

from tood.study.report import write_report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", required=True)
    parser.add_argument("--tables", type=Path, nargs="+", required=True, help="in Markdown")
    parser.add_argument("--figures", type=Path, nargs="*", default=[], help="PNG")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    write_report(args.output, args.name, args.tables, args.figures, absent=[])


if __name__ == "__main__":
    main()
