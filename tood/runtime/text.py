"""Text that people read in a terminal or a log."""

import difflib
import io
from collections.abc import Iterable, Sequence
from datetime import timedelta

_WIDEST_LINE = 10_000  # characters; a log has no width, and its lines must not break


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The known names that are close to a wrong one, such as `did you mean tood_af? `; empty if none is."""
    close = difflib.get_close_matches(name, list(known))
    return f"did you mean {' or '.join(close)}? " if close else ""


def there_are(name: object, known: Iterable[str]) -> str:
    """What may be in place of a wrong name, such as `did you mean mini? there are mini, paper, smoke`."""
    known = list(known)
    return f"{did_you_mean(str(name), known)}there are {', '.join(known)}"


def aligned(rows: Iterable[Sequence[object]], right: Sequence[int] = ()) -> str:
    """One line per row, columns aligned and two spaces apart.

    Args:
        rows: of cells, equally many; the text of a cell is shown as it is, brackets included.
        right: indices of the columns that are aligned at their right.
    """
    # Here, as every start of the workflow imports this module.
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2, 0, 0))
    for row in rows:
        cells = [Text(str(cell), justify="right" if i in right else "left") for i, cell in enumerate(row)]
        table.add_row(*cells)
    console = Console(file=io.StringIO(), width=_WIDEST_LINE, color_system=None)
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def duration(seconds: float) -> str:
    """Such as 0:12, 6:41 or 11:58:02."""
    text = str(timedelta(seconds=round(max(seconds, 0))))
    return text.removeprefix("0:").removeprefix("0") if seconds < 600 else text.removeprefix("0:")


def single_line(text: str) -> str:
    """A text without line breaks, its words one space apart."""
    return " ".join(text.split())


def one_line(error: Exception) -> str:
    """An error of a library: its text in one line, with its type where that is not said plainly."""
    text = single_line(str(error))
    return text if isinstance(error, ValueError) and text else f"{type(error).__name__}: {text}"
