"""`losses.jsonl`: what a training measures while it goes on, one JSON object per line."""

import json
import os
from pathlib import Path

from tood.runtime.files import atomic_path


class LossLog:
    """Appends to the log of one training; lines that an earlier attempt wrote after `iteration` go.

    Args:
        path: of the file.
        iteration: that the training goes on from; 0 starts the log anew.
    """

    def __init__(self, path: Path, iteration: int) -> None:
        self.path = path
        lines = path.read_text().splitlines(keepends=True) if path.is_file() and iteration else []
        # The last line may be half of one.
        kept = [s for s in lines if s.endswith("\n") and json.loads(s)["iteration"] <= iteration]
        with atomic_path(path) as temporary:
            temporary.write_text("".join(kept))

    def add(self, entry: dict) -> None:
        """Append one entry."""
        with self.path.open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def sync(self) -> None:
        """Wait until all entries are on the disk."""
        with self.path.open("a") as file:
            os.fsync(file.fileno())
