"""Text in figures is drawn as it is written, and characters without a font are named once."""

import re
import unicodedata
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from helpers.figures import pixels, text_of_pdf
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from tood.analysis.figures import files as figure_files
from tood.analysis.figures.files import LONGEST_NAME, save, save_captioned, shown_name
from tood.analysis.figures.positive_curves import draw as draw_positives
from tood.analysis.figures.sweeps import alpha_beta, sweep_of_m
from tood.analysis.figures.views import draw_ap_by_iou, draw_box_kinds, draw_density, draw_distances

DOLLARS = ("$5_$ bill", "$10 \\frac$", "$5 and $10", "\\$5", "$", "$$", "^{", "%d \\usepackage{x}", "a_b^c")
PACKAGE = Path(figure_files.__file__).parents[1]


@pytest.fixture(autouse=True)
def unsaid(monkeypatch):
    monkeypatch.setattr(figure_files, "_UNSHOWN", set())


def everywhere(text: str) -> Figure:
    """A figure with the text in every place where one can be."""
    figure = Figure(figsize=(8, 6), layout="constrained")
    axes, other = figure.subplots(1, 2)
    axes.plot([0, 1], [0, 1], label=text)
    axes.legend(title=text)
    axes.set(title=text, xlabel=text, ylabel=text)
    axes.set_xticks([0, 1], [text, text])
    axes.annotate(text, (0.5, 0.5))
    figure.colorbar(other.imshow(np.eye(2)), label=text)
    figure.suptitle(text)
    figure.supxlabel(text)
    return figure


@pytest.mark.parametrize("text", DOLLARS)
def test_dollars_and_backslashes_are_drawn_as_written(tmp_path, text):
    save_captioned(everywhere(text), tmp_path / "figure", "caption\n")
    assert text_of_pdf(tmp_path / "figure.pdf").splitlines().count(text) == 11
    assert pixels(tmp_path / "figure.png").std() > 0


def test_a_users_own_matplotlibrc_brings_in_no_latex(tmp_path):
    with mpl.rc_context({"text.usetex": True}):
        figure = everywhere("$5 bill")
    save(figure, tmp_path / "figure.pdf")
    assert "$5 bill" in text_of_pdf(tmp_path / "figure.pdf")


def figures_of_the_workflow() -> dict[str, Figure]:
    """With values that bring out every kind of tick."""
    objects = pd.DataFrame({"distance": [0.1, 1.0], "lost": [0.0, 0.5]})
    density = np.outer(10.0 ** np.arange(20), np.ones(20))
    curve = pd.Series([50.0, 10.0], index=[0.5, 0.75])
    positives = pd.DataFrame(
        [("a", 0, epoch, 4.1 + 0.1 * epoch, 0.5) for epoch in range(3)],
        columns=["scheme", "seed", "epoch", "positives", "positive_iou"],
    )
    m = pd.DataFrame({"m": [9, 13, 17], "AP": [40.0, 41.0, 40.5]})
    table4 = pd.DataFrame({"α": [1.0, 1.0], "β": [4.0, 6.0], "AP": [40.0, 41.0], "AP_paper": [42.0, 42.5]})
    return {
        "distances": draw_distances({"a": {0: objects}}),
        "score_iou": draw_density({"a": density}),
        "ap_by_iou": draw_ap_by_iou({"a": [curve]}),
        "box_kinds": draw_box_kinds({"a": np.full((5, 20), 12345)}),
        "positives": draw_positives(positives),
        "sweep_m": sweep_of_m(m),
        "alpha_beta": alpha_beta(table4),
    }


def test_no_figure_of_the_workflow_needs_mathtext_itself(tmp_path):
    for name, figure in figures_of_the_workflow().items():
        save(figure, tmp_path / f"{name}.png", tmp_path / f"{name}.pdf")
        texts = [text.get_text() for text in figure.findobj(Text)]
        assert any(texts), name
        assert [text for text in texts if "$" in text or "mathdefault" in text] == [], name


def test_every_figure_is_written_by_the_one_function():
    sources = {path.name: path.read_text() for path in PACKAGE.rglob("*.py")}
    calls = [name for name, source in sources.items() if re.search(r"\.savefig\(|pyplot", source)]
    assert calls == ["files.py"]


def test_a_missing_glyph_is_said_once(tmp_path, capsys, recwarn, monkeypatch):
    monkeypatch.setattr(figure_files, "_font_with", lambda character: None)
    save_captioned(everywhere("猫 and 🐈"), tmp_path / "figure1", "caption\n")
    save_captioned(everywhere("猫"), tmp_path / "figure4", "caption\n")
    (line,) = capsys.readouterr().err.splitlines()
    assert "猫 (CJK UNIFIED IDEOGRAPH-732B), 🐈 (CAT)" in line
    assert "fonts-noto-cjk" in line
    assert [str(warning.message) for warning in recwarn if "Glyph" in str(warning.message)] == []


def only_elsewhere() -> str:
    """A character that an installed font has and the default one has not."""
    default = font_manager.get_font(font_manager.findfont("DejaVu Sans")).get_charmap()
    other = font_manager.get_font(font_manager.findfont("STIXGeneral")).get_charmap()
    codes = sorted(set(other) - set(default))
    return next(chr(code) for code in codes if unicodedata.category(chr(code)) == "So")


def test_another_font_that_has_the_character_is_taken(tmp_path, capsys):
    character = only_elsewhere()
    figure, blank = everywhere(character), everywhere("\N{REPLACEMENT CHARACTER}")
    save(figure, tmp_path / "figure.png", tmp_path / "figure.pdf")
    save(blank, tmp_path / "blank.png")
    assert capsys.readouterr().err == ""
    texts = [text for text in figure.findobj(Text) if text.get_text() == character]
    (family,) = {tuple(text.get_fontfamily()) for text in texts}
    assert len(family) == 2
    assert (tmp_path / "figure.png").read_bytes() != (tmp_path / "blank.png").read_bytes()


@pytest.mark.parametrize("text", ["\ud800", "a\x00b", "\x1b[31m", "\ufe0f", "e\u0301", "\u200d", "\u202e"])
def test_odd_characters_are_no_crash(tmp_path, text):
    figure = everywhere(shown_name(text))
    save(figure, tmp_path / "figure.png", tmp_path / "figure.pdf", tmp_path / "figure.svg")
    with Image.open(tmp_path / "figure.png") as image:
        assert image.size == (1600, 1200)


@pytest.mark.parametrize(("name", "shown"), [("a\n b", "a b"), ("x" * 500, "x" * (LONGEST_NAME - 1) + "…")])
def test_names_take_one_line(name, shown):
    assert shown_name(name) == shown
