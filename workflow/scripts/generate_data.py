"""Draw the generated dataset of a scale."""

import argparse
import json
from pathlib import Path

from tood.data.synthetic import DrawingSpec, generate
from tood.runtime.failures import one_message

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--drawing", type=json.loads, required=True, help="DrawingSpec as JSON")
    args = parser.parse_args()
    with one_message("generate data"):
        generate(args.root, DrawingSpec(**args.drawing))
