"""Fetch a file of released weights."""

import argparse
import sys
from pathlib import Path

from tood.runtime.download import DownloadError, fetch
from tood.study.declarations import ExperimentError
from tood.study.released import ReleasedFile


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--released", type=ReleasedFile.model_validate_json, required=True, help="as JSON")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    try:
        fetch(args.released.source(), args.output)
    except (DownloadError, ExperimentError, OSError) as error:
        sys.exit(f"weights: {error}. Put the file at {args.output} by hand, or name other runs: runs=RUN,RUN")


if __name__ == "__main__":
    main()
