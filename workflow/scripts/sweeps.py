"""The hyper-parameters of TAL: AP against m, and AP over alpha and beta, ours and the paper's."""

import argparse
from pathlib import Path

from tood.analysis.figures.sweeps import draw_sweeps
from tood.runtime.failures import one_message


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table-m", type=Path, required=True, help="CSV")
    parser.add_argument("--table4", type=Path, required=True, help="CSV")
    parser.add_argument("--output", type=Path, required=True, help="folder")
    args = parser.parse_args()
    with one_message("sweeps"):
        draw_sweeps(args.table_m, args.table4, args.output)


if __name__ == "__main__":
    main()
