"""`tood submission`: whether a file is one that COCO's server takes."""

import argparse
from pathlib import Path

from tood.commands.options import require_file


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("file", type=Path, metavar="FILE", help="detections_SET_ALGORITHM_results.zip")
    parser.add_argument(
        "--images", type=Path, required=True, metavar="FILE", help="such as image_info_test-dev2017.json"
    )


def run(options: argparse.Namespace) -> int:
    """Print what the file holds."""
    from tood.evaluation.submission import check

    require_file(options.file)
    require_file(options.images, "--images")
    print(check(options.file, options.images))
    return 0
