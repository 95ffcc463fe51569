"""Figure of the schemes of Table 2: positives per object, and their IoU, over training."""

import argparse
import json
from pathlib import Path

from tood.analysis.figures.positive_curves import draw_positive_curves
from tood.ledger.records import read_record
from tood.runtime.failures import one_message


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=json.loads, required=True, help="files by scheme, as JSON")
    parser.add_argument("--png", type=Path, required=True)
    parser.add_argument("--pdf", type=Path, required=True)
    args = parser.parse_args()
    with one_message("positives"):
        found = {
            scheme: [read_record(Path(name)) for name in names] for scheme, names in args.records.items()
        }
        draw_positive_curves(
            {scheme: [record.epochs for record in records if record] for scheme, records in found.items()},
            args.png,
            args.pdf,
        )


if __name__ == "__main__":
    main()
