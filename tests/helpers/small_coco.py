"""The splits of the few drawn images that the fixture `root` of tests/data gives, and changes of them."""

import json
from collections.abc import Callable
from pathlib import Path

from tood.data.validation import Split

TRAIN = Split("annotations/instances_train2017.json", "train2017")
VAL = Split("annotations/instances_val2017.json", "val2017")


def edit(root: Path, change: Callable[[dict], object], split: Split = TRAIN) -> None:
    """Change the content of an annotation file."""
    file = root / split.annotations
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
