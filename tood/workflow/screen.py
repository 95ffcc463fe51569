"""Lines of text for a terminal or a log, and in a terminal one at their end that changes."""

import contextlib
import os
from typing import TextIO

from tood.runtime.failures import Unbroken

RED, YELLOW = 31, 33


class Screen:
    """Lines of text, and at their end one that changes if they go to a terminal.

    Args:
        stream: where to.
        color: whether lines may be coloured.
    """

    def __init__(self, stream: TextIO, color: bool = False) -> None:
        self.live = stream.isatty() and os.environ.get("TERM") != "dumb"
        self._stream, self._color = Unbroken(stream), color
        self._last = ""  # the line that changes

    def print(self, text: str, color: int = 0) -> None:
        """Print lines above the one that changes."""
        shown = f"\033[{color}m{text}\033[0m" if color and self._color else text
        self._write(f"{self._cleared()}{shown}\n")

    def keep(self, line: str) -> None:
        """Make this the line that changes; an empty one removes it."""
        if line != self._last:
            self._write(self._cleared() + line)
            self._last = line

    def _cleared(self) -> str:
        """What removes the line that changes."""
        cleared, self._last = ("\r\033[2K" if self._last else ""), ""
        return cleared

    def _write(self, text: str) -> None:
        with contextlib.suppress(ValueError):  # it is closed
            self._stream.write(text)
            self._stream.flush()
