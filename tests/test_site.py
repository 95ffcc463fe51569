"""The pages as a site, and messages in them against those of the programs."""

import ast
import importlib.util
import json
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
SOURCES = [
    *REPOSITORY.glob("tood/**/*.py"),
    REPOSITORY / "workflow/rules/common.smk",
    REPOSITORY / "Makefile",
]
FAQ = (REPOSITORY / "docs/faq.md").read_text()


@pytest.fixture(scope="module")
def make_site():
    spec = importlib.util.spec_from_file_location("make_site", REPOSITORY / "docs/make_site.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_page_is_in_the_navigation(make_site):
    text = (REPOSITORY / "mkdocs.yml").read_text().split("\nnav:\n")[1]
    listed = re.findall(r"^ *- (\S+\.md)$", text, re.MULTILINE)
    made = ["docs/reference.md", *(str(path.with_suffix(".md")) for path in make_site.notebooks())]
    assert sorted([*map(str, make_site.pages()), *made]) == sorted(listed)


def test_a_page_of_a_notebook_has_its_cells(make_site, tmp_path):
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "\n", "Text"]},
        {"cell_type": "code", "source": ["x = 1\n", "x"]},
    ]
    path = tmp_path / "some.ipynb"
    path.write_text(json.dumps({"cells": cells}))
    text, where, code = make_site.notebook_page(path).split("\n\n", 1)[1].split("\n\n")
    assert (text, code) == ("Text", "```python\nx = 1\nx\n```\n")
    assert "[some.ipynb](some.ipynb)" in where


def test_the_site_builds_without_a_warning(make_site, tmp_path):
    pytest.importorskip("mkdocs", reason="`make site` installs mkdocs")
    make_site.build(tmp_path / "site")  # a warning ends it with an error
    api = (tmp_path / "site/docs/reference.html").read_text()
    for name in ("tood.evaluation.detector.of_run", "tood.report.frames.epochs"):
        assert f'id="{name}"' in api
    assert "draw_figure1" in (tmp_path / "site/examples/atss_and_tood.html").read_text()
    assert (tmp_path / "site/examples/atss_and_tood.ipynb").is_file()
    for page in tmp_path.rglob("*.html"):
        fetched = re.findall(r'(?:src|import)="?(?:https?:)?//', page.read_text())
        assert not fetched, f"{page} loads something from another server"


def literals(path: Path) -> list[str]:
    """Every text in a source, with … for what is filled in."""
    if path.suffix != ".py":
        return [path.read_text()]
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.JoinedStr):
            found.append(
                "".join(
                    getattr(part, "value", "…") if isinstance(part, ast.Constant) else "…"
                    for part in node.values
                )
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
    return found


MESSAGES = re.findall(r"^\*\*`(.*?)`\*\*", FAQ, re.MULTILINE)
STATES = ("stale", "inconclusive", "No module named 'mmcv._ext'")  # words of tables, and a message of Python


def test_messages_of_the_faq_are_those_of_the_programs():
    texts = [text for path in SOURCES for text in literals(path)]
    asked = [message for message in MESSAGES if message not in STATES]
    assert len(asked) > 15
    for message in asked:
        parts = [part.strip(" ,") for part in message.split("…") if part.strip(" ,")]
        assert any(all(part in text for part in parts) for text in texts), message
