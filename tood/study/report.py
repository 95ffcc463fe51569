"""One page with every table and figure of a study."""

import base64
from collections.abc import Iterable
from pathlib import Path

from jinja2 import Template
from markdown_it import MarkdownIt

from tood.runtime.files import atomic_path

PAGE = Template(
    """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>TOOD, {{ name }}</title>
<style>
body { font: 15px/1.5 sans-serif; max-width: 72em; margin: 2em auto; padding: 0 1em; }
table { border-collapse: collapse; margin: 1em 0; }
th, td { padding: .2em .7em; border-bottom: 1px solid #ddd; text-align: left; }
img { max-width: 100%; }
</style>
<h1>TOOD: Task-aligned One-stage Object Detection — {{ name }}</h1>
<p>Each metric beside the paper's own value for it. “pending” was not run.</p>
{% for figure in figures %}
<p><img alt="{{ figure.stem }}" src="data:image/png;base64,{{ encode(figure) }}"></p>
{{ caption(figure) }}
{% endfor %}
{% for name in absent %}
<p>{{ name }} is not shown: not all runs that it is drawn from are done and unchanged.</p>
{% endfor %}
{% for table in tables %}{{ render(table) }}{% endfor %}
</html>
"""
)


def write_report(
    output: Path, name: str, tables: Iterable[Path], figures: Iterable[Path], absent: Iterable[str]
) -> None:
    """Write the page.

    Args:
        output: HTML, with the figures in it.
        name: of the study.
        tables: in Markdown.
        figures: PNG; a caption in Markdown may lie beside each, under its name.
        absent: names of the figures that there are not.
    """
    markdown = MarkdownIt("commonmark", {"html": True}).enable("table")
    page = PAGE.render(
        name=name,
        tables=tables,
        figures=figures,
        absent=absent,
        render=lambda path: markdown.render(path.read_text()),
        caption=lambda path: render_caption(markdown, path),
        encode=lambda path: base64.b64encode(path.read_bytes()).decode(),
    )
    with atomic_path(output) as temporary:
        temporary.write_text(page)


def render_caption(markdown: MarkdownIt, figure: Path) -> str:
    """The caption beside a figure as HTML, empty if it has none."""
    caption = figure.with_suffix(".md")
    return markdown.render(caption.read_text()) if caption.is_file() else ""
