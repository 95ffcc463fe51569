"""Figures as files. Any text in them is drawn as it is written.

Names of classes come from the user's data: `$5 bill` is not a formula, and `猫` needs a font that is not
matplotlib's. So no text of a figure is read as mathtext or LaTeX, not even the suite's own text.
"""

import functools
import sys
import unicodedata
import warnings
from collections.abc import Iterable
from pathlib import Path

import matplotlib as mpl
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.text import Text

from tood.analysis.figures.dark import on_dark
from tood.runtime.files import atomic_path, write_text
from tood.study.paths import dark_picture

LONGEST_NAME = 60  # characters of a name in a figure
_UNKNOWN = "\N{REPLACEMENT CHARACTER}"
_UNDATED = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}}
_UNSHOWN: set[str] = set()  # characters without a font that this process has already reported


def save(figure: Figure, *paths: Path) -> None:
    """Write a figure in the format of each path's suffix; equal figures give equal files."""
    with (
        # Drawing a figure creates new ticks.
        mpl.rc_context({"text.parse_math": False, "text.usetex": False, "svg.hashsalt": "tood"}),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", r"Glyph \d+ .*missing from font", UserWarning)
        _write_plainly(figure)
        for path in paths:
            with atomic_path(path) as temporary:
                figure.savefig(temporary, dpi=200, metadata=_UNDATED.get(path.suffix))


def save_captioned(figure: Figure, stem: Path, caption: str) -> None:
    """Write a figure of the workflow and its caption, beside one another.

    Args:
        figure: drawn for a light page.
        stem: of the files, without a suffix: PNG, PDF, another PNG for dark pages (`dark_picture`), Markdown.
        caption: in Markdown; it says what marks, bars and bands mean.
    """
    picture = stem.with_suffix(".png")
    save(figure, picture)
    figure.set_layout_engine("none")  # it would move things a little each time the figure is drawn
    save(figure, stem.with_suffix(".pdf"))
    with on_dark(figure):
        save(figure, dark_picture(picture))
    write_text(stem.with_suffix(".md"), f"{caption.strip()}\n")


def shown_name(name: str) -> str:
    """A name from data on one line of a figure; a very long name is cut.

    A mark replaces characters that no font has, such as control characters and single surrogates.
    """
    line = "".join(map(_printable, " ".join(name.split())))
    return line if len(line) <= LONGEST_NAME else f"{line[: LONGEST_NAME - 1]}…"


def _write_plainly(figure: Figure) -> None:
    """Let each text of a figure be drawn as it is written, in fonts that have its characters."""
    texts = [artist for artist in figure.findobj(Text) if isinstance(artist, Text)]
    foreign: set[str] = set()
    for text in texts:
        text.set_parse_math(False)
        text.set_usetex(False)
        foreign |= {character for character in text.get_text() if not _is_in_default_font(character)}
    if not foreign:
        return
    fonts = {character: _font_with(character) for character in sorted(foreign)}
    families = list(dict.fromkeys(font for font in fonts.values() if font))
    for text in texts:
        if foreign & set(text.get_text()):
            text.set_fontfamily([*text.get_fontfamily(), *families])
    _say_unshown(character for character, font in fonts.items() if font is None)


def _printable(character: str) -> str:
    return _UNKNOWN if unicodedata.category(character) in ("Cc", "Cs") else character


@functools.cache
def _default_font() -> frozenset[int]:
    """Code points that the font of a figure has."""
    return frozenset(font_manager.get_font(font_manager.findfont(FontProperties())).get_charmap())


def _is_in_default_font(character: str) -> bool:
    # A joiner or a mark of variation, "Cf" and "Mn", changes another character and needs no glyph itself.
    return ord(character) in _default_font() or unicodedata.category(character) in ("Cc", "Cf", "Mn", "Zs")


@functools.cache
def _font_with(character: str) -> str | None:
    """The family of a font of this machine that has a character; None if there is none."""
    for path in _installed_fonts():
        try:
            if ord(character) in font_manager.get_font(path).get_charmap():
                font_manager.fontManager.addfont(path)  # it may be newer than matplotlib's list of fonts
                return FontProperties(fname=path).get_name()
        except (OSError, RuntimeError, NotImplementedError):  # damaged, or with pictures instead of outlines
            continue
    return None


@functools.cache
def _installed_fonts() -> list[str]:
    """Files of the machine's fonts and of matplotlib's own, plain styles first."""
    own = {font.fname for font in font_manager.fontManager.ttflist}
    paths = sorted(own | set(font_manager.findSystemFonts()))
    return sorted(paths, key=lambda path: "regular" not in path.lower())


def _say_unshown(characters: Iterable[str]) -> None:
    """Report once for each character that a box replaces it."""
    new = [character for character in characters if character not in _UNSHOWN]
    if new:
        _UNSHOWN.update(new)
        names = ", ".join(
            f"{character} ({unicodedata.name(character, f'U+{ord(character):04X}')})"
            for character in new[:10]
        )
        more = f" and {len(new) - 10} more" if len(new) > 10 else ""
        print(
            f"figures: no font of this machine has {names}{more}; a box is drawn for each. Install a font "
            "that has them, such as Noto Sans (Debian: fonts-noto-core, fonts-noto-cjk, fonts-symbola)",
            file=sys.stderr,
        )
