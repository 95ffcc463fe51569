"""Check a COCO-layout dataset, every image of it, and write what it is."""

import argparse
import json
from pathlib import Path

from tood.data.validation import Split, check_dataset
from tood.runtime.failures import one_message
from tood.runtime.files import write_json
from tood.runtime.progress import Progress


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--splits", type=json.loads, required=True, help="val, perhaps train, as JSON")
    parser.add_argument("--sizes", type=json.loads, default=[], help="of networks' inputs, as JSON")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    splits = {name: Split(**split) for name, split in args.splits.items()}
    with one_message("data"), Progress("check data", total=1) as progress:

        def show(done: int, total: int) -> None:
            progress.total = total
            progress.advance(done - progress.done)

        manifest = check_dataset(
            args.root, splits.get("train"), splits["val"], sizes=args.sizes, progress=show
        )
        for note in manifest["notes"]:
            print(f"data: {note}")
        write_json(args.output, {"root": str(args.root), **manifest})


if __name__ == "__main__":
    main()
