"""`losses.jsonl`: losses and positives during a training, one JSON object per line."""

import json
import os
from pathlib import Path

from tood.runtime.files import atomic_path


class LossLog:
    """Appends to the log of one training; entries of an earlier attempt after `iteration` are removed.

    Args:
        path: file of the log.
        iteration: iteration that the training resumes from; 0 starts a new log.
    """

    def __init__(self, path: Path, iteration: int) -> None:
        self.path = path
        lines = path.read_text().splitlines(keepends=True) if path.is_file() and iteration else []
        # A kill may have cut the last line short.
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
