"""Text from data and declarations is shown as it is: in Markdown, in the report's HTML and in LaTeX."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from tood.report.markup import cells_of_table, html, latex, markdown, markdown_table
from tood.report.sections import table_section
from tood.report.tables import build, write
from tood.study.declarations import load_runs, load_tables

HOSTILE = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[x](javascript:alert(1))",
    "![x](http://example.org/x.png)",
    "<http://example.org>",
    "a | b | c",
    "`code` *bold* _x_ ~~gone~~ $x^2$",
    "&lt;b&gt; &amp; &#60;",
    "<sup onclick=alert(1)>a</sup>",
    "<svg/onload=alert(1)>",
    "</td></tr></table><h1>x",
    "[x]: javascript:alert(1)",
    "a\n\n# heading\n\n<b>x</b>",
    "\\<b>x</b>",
)


class Reader(HTMLParser):
    """Elements with their attributes, and the text between them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def plain(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("text", HOSTILE)
def test_markdown_shows_text_as_it_is(text):
    """Also where raw HTML is allowed, as on GitHub."""
    for page in (html(markdown(text)), MarkdownIt("commonmark", {"html": True}).render(markdown(text))):
        read = Reader(page)
        assert {tag for tag, _ in read.elements} <= {"p", "sup"}
        assert [attributes for _, attributes in read.elements if attributes] == []
        assert plain(read.text) == plain(text)


@pytest.mark.parametrize("text", HOSTILE)
def test_html_brings_in_no_element(text):
    """Nor does a caption that somebody wrote without a thought of markup."""
    read = Reader(html(text))
    assert {tag for tag, _ in read.elements} <= {"p", "sup", "code", "em", "h1", "a", "img"}
    for tag, attributes in read.elements:
        assert set(attributes) <= {"a": {"href"}, "img": {"src", "alt"}}.get(tag, set())
        assert "javascript" not in str(attributes.get("href"))


@pytest.mark.parametrize("text", HOSTILE)
def test_tables_of_the_report_take_no_markup_from_notes_rows_and_titles(tmp_path: Path, text):
    runs = load_runs()
    table = load_tables(runs=runs)["table3"]
    row = table.rows[0]
    changed = row.model_copy(update={"key": dict.fromkeys(row.key, text), "footnote": text})
    table = table.model_copy(update={"rows": [changed, *table.rows[1:]], "caption": text, "title": text})
    write(table, build(table, no_values(), {}, runs), tmp_path, [text])
    # A value, as a table without any is not shown
    values = build(table, no_values(), {}, runs)
    values.loc[0, "AP"] = 40.0
    values.to_csv(tmp_path / "table3.csv", index=False)
    shown = table_section(tmp_path / "table3.md", table, {row.run: ["done"]})
    label = " ".join(map(str, shown.rows[0].label))
    remarks = "".join([*map(html, shown.remarks), *map(str, shown.footnotes)])
    for part, times in ((shown.caption, 1), (label, len(row.key)), (remarks, 2)):
        read = Reader(str(part))
        assert {tag for tag, _ in read.elements} <= {"p", "sup"}
        assert [attributes for _, attributes in read.elements if attributes] == []
        assert plain(read.text).count(plain(text)) == times
    assert plain(shown.title) == plain(text)
    tex = (tmp_path / "table3.tex").read_text()
    assert re.search(r"(?<!\\)[&%#]", "".join(line for line in tex.splitlines() if "caption" in line)) is None


@pytest.mark.parametrize("text", HOSTILE)
def test_cells_of_a_table_are_read_as_they_were_written(text):
    table = markdown_table("", ["A", "B"], [[markdown(text), "1"], ["", "2"]], 1, [])
    header, first, second = cells_of_table(table.strip())
    assert (header, first[1], second) == (["A", "B"], "1", ["", "2"])
    read = Reader(first[0])
    assert {tag for tag, _ in read.elements} <= {"sup"}
    assert plain(read.text) == plain(text)


def no_values():
    import pandas as pd

    from tood.report.tables import COLUMNS

    return pd.DataFrame(columns=COLUMNS)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (r"\write18{touch X}", r"\textbackslash{}write18\{touch X\}"),
        ("^^M", r"\textasciicircum{}\textasciicircum{}M"),
        ("$5_$ bill #1 50% & more~", r"\$5\_\$ bill \#1 50\% \& more\textasciitilde{}"),
        ("a\n\nb\tc\x00", "a b c"),
        ("größe – 猫 🐈", "größe -- U+732B U+1F408"),
        ("AP75 of <a>", "AP$_{75}$ of $<$a$>$"),
    ],
)
def test_latex_shows_text_as_it_is(text, shown):
    assert latex(text) == shown


def test_a_footnotes_mark_is_a_superscript():
    assert html("a<sup>1</sup> <sup>b c</sup> <sup>12345</sup>").count("<sup>") == 1
