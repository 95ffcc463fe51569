"""Fetch the ImageNet weights of a backbone, from where mmdet's configurations take them."""

import argparse
import sys
from pathlib import Path

from tood.engine.weights import address
from tood.runtime.download import DownloadError, Source, fetch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", required=True, help="such as resnet50 or resnet50_caffe")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    url, digest = address(args.name)
    try:
        fetch(Source(url, sha256=digest), args.output)
    except (DownloadError, OSError) as error:
        sys.exit(
            f"weights: {Path(url).name} cannot be fetched ({error}). Put the file at {args.output} by hand, "
            "or start from random weights, which the tables will say: --config weights=random name=NAME"
        )


if __name__ == "__main__":
    main()
