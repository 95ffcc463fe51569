"""Fetch COCO 2017 into a folder, and unpack it; what is there already stays."""

import argparse
from pathlib import Path

from tood.data.coco import download
from tood.runtime.failures import one_message
from tood.study.coco import ARCHIVES, load_archives


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True, help="folder of the dataset")
    parser.add_argument("--archives", nargs="*", required=True, help="names of those that are wanted")
    parser.add_argument("--declaration", type=Path, default=ARCHIVES, help="of all archives")
    args = parser.parse_args()
    with one_message("download"):
        archives = load_archives(args.declaration)
        download(args.root, [archives[name] for name in args.archives])


if __name__ == "__main__":
    main()
