"""Rewrite the results that README.md and docs/mini.md show, from what is kept under results/."""

import argparse
from pathlib import Path

from tood.report.front_page import results_part, rewrite
from tood.report.mini_page import mini_part
from tood.runtime.failures import one_message


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--readme", type=Path, required=True)
    parser.add_argument("--mini", type=Path, required=True, help="docs/mini.md")
    parser.add_argument("--results", type=Path, required=True, help="folder of all studies")
    args = parser.parse_args()
    with one_message("readme"):
        rewrite(args.readme, results_part(args.results))
        rewrite(args.mini, mini_part(args.results))


if __name__ == "__main__":
    main()
