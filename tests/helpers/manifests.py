"""A manifest as the check of a dataset writes it, for tests in which nothing was checked."""

import json
from collections.abc import Sequence
from pathlib import Path

SPLIT = {"images": 2, "annotation_file": "a.json", "image_folder": "i", "sha256": "aa", "image_digest": "bb"}


def write_manifest(path: Path, root: Path | str, categories: Sequence[dict]) -> Path:
    """Write it, and return its path.

    Args:
        path: of the manifest.
        root: of the dataset.
        categories: {id, name} each.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    splits = {"train": SPLIT, "val": SPLIT}
    path.write_text(json.dumps({"root": str(root), "categories": list(categories), "splits": splits}))
    return path
