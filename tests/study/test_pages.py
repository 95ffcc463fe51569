"""What the pages show, as it is declared."""

import pytest
import yaml

from tood.study.declarations import ExperimentError, load_runs, load_tables
from tood.study.pages import PAGES, load_pages


def test_what_is_declared_is_there():
    pages = load_pages()
    assert set(pages.detectors.values()) <= set(load_runs())
    assert pages.mini.best_anchors.table in load_tables()
    assert list(pages.figures)[:3] == ["claims", "figure1", "figure4"]


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("detectors", "TOOD"), "tood_aff", "'tood_aff' is no run; .*there are "),
        (("mini", "of_others"), ["table9"], "'table9' is no table; .*there are "),
        (("results",), [{"scale": "maxi"}], "'maxi' is no scale; there are mini, paper, smoke"),
        (("mini", "orders", "rows"), 2, "mini: orders: rows: Input should be greater than or equal to 3"),
        (("readme", "colour"), "red", "readme: colour: unknown key"),
    ],
)
def test_a_file_with_an_error(tmp_path, place, value, message):
    content = yaml.safe_load(PAGES.read_text())
    target = content
    for step in place[:-1]:
        target = target[step]
    target[place[-1]] = value
    path = tmp_path / "pages.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ExperimentError, match=rf"pages\.yaml: .*{message}"):
        load_pages(path)
