"""Figures of the runs of Table 6: best anchors, score against IoU, AP by IoU threshold, kinds of boxes."""

import argparse
import json
from pathlib import Path

from tood.analysis.figures.views import draw_views
from tood.data.manifest import read_manifest
from tood.runtime.failures import one_message
from tood.study.paths import RunPaths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=json.loads, required=True, help="folders of runs by name, as JSON")
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--annotations", required=True, help="of the validation images, in the dataset")
    parser.add_argument("--output", type=Path, required=True, help="folder of the figures")
    args = parser.parse_args()
    runs = {name: [RunPaths(Path(folder)) for folder in folders] for name, folders in args.runs.items()}
    with one_message("views"):
        draw_views(runs, Path(read_manifest(args.manifest)["root"]) / args.annotations, args.output)


if __name__ == "__main__":
    main()
