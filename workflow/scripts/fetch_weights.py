"""Fetch the ImageNet weights of a backbone by the name mmdet's configurations use."""

import argparse
import re
import sys
from pathlib import Path

import torch
from mmengine.runner.checkpoint import get_torchvision_models

from tood.files import atomic_path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", required=True, help="a torchvision model, such as resnet50")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    # The V1 weights, which the paper's code used, are in mmengine's table under the plain name.
    url = get_torchvision_models()[args.name]
    digest = re.search(r"-([0-9a-f]{8,})\.", url).group(1)  # torchvision names its files by their sha256
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
