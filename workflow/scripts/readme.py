"""Rewrite the results that README.md and docs/mini.md show, from what is kept under results/."""

import argparse
import sys
from pathlib import Path

from tood.study.front_page import results_part, rewrite
from tood.study.mini_page import mini_part


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--readme", type=Path, required=True)
    parser.add_argument("--mini", type=Path, required=True, help="docs/mini.md")
    parser.add_argument("--results", type=Path, required=True, help="folder of all studies")
    args = parser.parse_args()
    try:
        rewrite(args.readme, results_part(args.results))
        rewrite(args.mini, mini_part(args.results))
    except ValueError as error:
        sys.exit(f"readme: {error}")


if __name__ == "__main__":
    main()
