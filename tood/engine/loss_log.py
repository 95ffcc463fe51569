"""`losses.jsonl`: losses and positives during a training, one JSON object per line."""

import os
from pathlib import Path
from typing import Protocol

from pydantic import BaseModel

from tood.runtime.files import atomic_path, parse_line, to_json


class _Logged(BaseModel):
    iteration: int


class Mirror(Protocol):
    """Something that also shows entries elsewhere."""

    def add(self, entry: dict) -> None:
        """Show one entry."""


class LossLog:
    """Appends to the log of one training; entries of an earlier attempt after `iteration` are removed.

    Args:
        path: file of the log.
        iteration: iteration that the training resumes from; 0 starts a new log.
        mirror: receives each new entry after it is in the file.

    Raises:
        DamagedFile: a line of an earlier attempt is not what it wrote.
    """

    def __init__(self, path: Path, iteration: int, mirror: Mirror | None = None) -> None:
        self.path, self.mirror = path, mirror
        lines = path.read_bytes().splitlines(keepends=True) if path.is_file() and iteration else []
        # A kill may have cut the last line short.
        whole = [(n, line) for n, line in enumerate(lines, 1) if line.endswith(b"\n")]
        kept = [line for n, line in whole if parse_line(path, n, line, _Logged)["iteration"] <= iteration]
        with atomic_path(path) as temporary:
            temporary.write_bytes(b"".join(kept))

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
