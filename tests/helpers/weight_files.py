"""Weight files that would do something, were they unpickled."""

from pathlib import Path
from typing import Any


class Harmful:
    """Would create a file.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")
