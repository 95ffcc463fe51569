"""Text and tables in Markdown and in LaTeX."""

import re
from collections.abc import Sequence

from markdown_it import MarkdownIt

DASH = "–"  # where there is no value
# GitHub reads $ as mathematics and ~ as a line through the text; & may begin the name of a character.
_IN_MARKDOWN = re.compile(r"[\\`*_|<>\[\]$~]|&(?=[#\w])")
_LATEX = str.maketrans(
    {character: f"\\{character}" for character in "%_&#${}"}
    | {character: f"${character}$" for character in "<>|"}
    | {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "α": r"$\alpha$",
        "β": r"$\beta$",
        "Σ": r"$\Sigma$",
        "²": r"$^2$",
        "±": r"$\pm$",
        "×": r"$\times$",
        "−": "$-$",
        "≤": r"$\leq$",
        "≥": r"$\geq$",
        "†": r"$^\dagger$",
        "–": "--",
    }
)
# Letters of Western languages and common punctuation need no package.
_BEYOND_LATEX = re.compile("[^\\x20-\\x7e\u00a1-\u017f‘’“”…—]")


def number(value: float, spec: str) -> str:
    """A number as tables show it: a format of Python, but with a minus sign in place of the hyphen."""
    return format(value, spec).replace("-", "−")


def markdown(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return _IN_MARKDOWN.sub(r"\\\g<0>", _line(text))


def latex(text: str) -> str:
    """Text that LaTeX shows as it is, on one line, but for the index of AP75 and its kin.

    A character that LaTeX's own fonts lack is shown as its code point, such as U+732B.
    """
    escaped = re.sub(
        _BEYOND_LATEX, lambda character: f"U+{ord(character[0]):04X}", _line(text).translate(_LATEX)
    )
    return re.sub(r"\bAP(50|75|S|M|L)\b", r"AP$_{\1}$", escaped)


def html(text: str) -> str:
    """Markdown as HTML, of which it can bring in no element but a superscript, the mark of a footnote."""
    return _with_marks(_reader().render(text))


def cells_of_table(table: str) -> list[list[str]]:
    """The cells of a table in Markdown as HTML, row by row, the header first; as `html` makes them."""
    reader, rows = _reader(), list[list[str]]()
    for token in reader.parse(table):
        if token.type == "tr_open":
            rows.append([])
        elif token.type == "inline" and rows:
            shown = reader.renderer.render(token.children or [], reader.options, {})
            rows[-1].append(_with_marks(str(shown)))
    return rows


def _reader() -> MarkdownIt:
    return MarkdownIt("commonmark", {"html": False}).enable("table")


def _with_marks(rendered: str) -> str:
    return re.sub(r"&lt;sup&gt;(\w{1,4})&lt;/sup&gt;", r"<sup>\1</sup>", rendered)


def _line(text: str) -> str:
    """Text without line breaks, which end a cell or a paragraph, and other control characters."""
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())


def markdown_table(
    caption: str, header: Sequence[str], body: Sequence[Sequence[str]], words: int, below: Sequence[str]
) -> str:
    """A table with its caption and remarks, all escaped; the first `words` columns are not numbers."""
    alignment = [":---"] * words + ["---:"] * (len(header) - words)
    lines = [f"| {' | '.join(cells)} |" for cells in (header, alignment, *body)]
    return "\n\n".join([caption, "\n".join(lines), *below]) + "\n"


def latex_table(
    name: str,
    caption: str,
    header: Sequence[str],
    body: Sequence[Sequence[str]],
    words: int,
    below: Sequence[str],
) -> str:
    """As `markdown_table`, as a float that needs only the package booktabs; `name` is for its label."""
    columns = "l" * words + "r" * (len(header) - words)
    lines = [f"{' & '.join(cells)} \\\\" for cells in (header, *body)]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{caption}}}",
            rf"\label{{tab:{name}}}",
            r"\footnotesize",
            r"\setlength{\tabcolsep}{3pt}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            lines[0],
            r"\midrule",
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}",
            *(rf"\par {remark}" for remark in below),
            r"\end{table}",
            "",
        ]
    )
