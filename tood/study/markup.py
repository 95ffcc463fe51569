"""Text and tables in Markdown and in LaTeX."""

import re
from collections.abc import Sequence

_MARKDOWN = str.maketrans({character: f"\\{character}" for character in "\\`*_|<>[]"})
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
        "≤": r"$\leq$",
        "≥": r"$\geq$",
        "†": r"$^\dagger$",
        "–": "--",
    }
)


def markdown(text: str) -> str:
    """Text that Markdown shows as it is."""
    return text.translate(_MARKDOWN)


def latex(text: str) -> str:
    """Text that LaTeX shows as it is, but for the index of AP75 and its kin."""
    return re.sub(r"\bAP(50|75|S|M|L)\b", r"AP$_{\1}$", text.translate(_LATEX))


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
