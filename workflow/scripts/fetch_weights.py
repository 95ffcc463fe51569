"""Fetch the ImageNet weights of a backbone, from where mmdet's configurations take them."""

import argparse
import sys
from pathlib import Path

import torch

from tood.engine.weights import address
from tood.runtime.files import atomic_path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", required=True, help="such as resnet50 or resnet50_caffe")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    url, digest = address(args.name)
    try:
        with atomic_path(args.output) as temporary:
            torch.hub.download_url_to_file(url, str(temporary), hash_prefix=digest)
    except (OSError, RuntimeError) as error:
        sys.exit(
            f"weights: {Path(url).name} cannot be fetched ({error}). Put the file at {args.output} by hand, "
            "or start from random weights, which the tables will say: --config weights=random name=NAME"
        )


if __name__ == "__main__":
    main()
