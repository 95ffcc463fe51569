"""Check a COCO-layout dataset, every image of it, and write what it is."""

import argparse
import json
import sys
from pathlib import Path

from tood.data.validation import DataError, Split, check_dataset
from tood.runtime.files import write_json
from tood.runtime.progress import Progress


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--splits", type=json.loads, required=True, help="val, perhaps train, as JSON")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    splits = {name: Split(**split) for name, split in args.splits.items()}
    with Progress("check data", total=1) as progress:

        def show(done: int, total: int) -> None:
            progress.total = total
            progress.advance(done - progress.done)

        try:
            manifest = check_dataset(args.root, splits.get("train"), splits["val"], progress=show)
        except DataError as error:
            sys.exit(f"data: {error}")
    for note in manifest["notes"]:
        print(f"data: {note}")
    write_json(args.output, {"root": str(args.root), **manifest})


if __name__ == "__main__":
    main()
