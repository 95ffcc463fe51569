"""Fetch the ImageNet weights of a backbone, from where mmdet's configurations take them."""

import argparse
import re
import sys
from pathlib import Path

import torch
from mmengine.runner.checkpoint import get_external_models, get_torchvision_models

from tood.runtime.files import atomic_path

# Names that are not torchvision's: as mmdet's configurations call them, after open-mmlab://
OPEN_MMLAB = {
    "resnet50_caffe": "detectron2/resnet50_caffe",
    "resnet50_caffe_detectron": "detectron/resnet50_caffe",
}


def address(name: str) -> tuple[str, str]:
    """Where the weights of that name are, and the start of their sha256 (empty if the name has none)."""
    if name in OPEN_MMLAB:
        url = get_external_models()[OPEN_MMLAB[name]]
    else:  # torchvision's first ones, which the paper's code used, stand under the plain name
        url = get_torchvision_models()[name]
    digest = re.search(r"-([0-9a-f]{8,})\.", url)
    return url, digest.group(1) if digest else ""


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
