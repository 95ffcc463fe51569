"""`losses.jsonl`: losses and positives during a training, one JSON object per line."""

import json
import os
from pathlib import Path
from typing import Protocol

from tood.runtime.files import atomic_path, to_json


class Mirror(Protocol):
    """What shows entries elsewhere too."""

    def add(self, entry: dict) -> None:
        """Show one entry."""


class LossLog:
    """Appends to the log of one training; entries of an earlier attempt after `iteration` are removed.

    Args:
        path: file of the log.
        iteration: iteration that the training resumes from; 0 starts a new log.
        mirror: is given each new entry, once it is in the file.
    """

    def __init__(self, path: Path, iteration: int, mirror: Mirror | None = None) -> None:
        self.path, self.mirror = path, mirror
        lines = path.read_text().splitlines(keepends=True) if path.is_file() and iteration else []
        # A kill may have cut the last line short.
        kept = [s for s in lines if s.endswith("\n") and json.loads(s)["iteration"] <= iteration]
        with atomic_path(path) as temporary:
            temporary.write_text("".join(kept))

    def add(self, entry: dict) -> None:
        """Append one entry."""
        with self.path.open("a") as file:
            file.write(to_json(entry) + "\n")
        if self.mirror:
            self.mirror.add(entry)

    def sync(self) -> None:
        """Wait until all entries are on the disk."""
        with self.path.open("a") as file:
            os.fsync(file.fileno())
