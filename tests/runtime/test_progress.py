"""Progress is readable in a log and in a terminal."""

import re

import pytest

from tood.runtime import progress
from tood.runtime.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test sets."""
    times = {"now": 100.0}
    monkeypatch.setattr(progress.time, "monotonic", lambda: times["now"])
    return times


def test_lines_in_a_log(clock, capsys):
    with Progress("train x", 40) as bar:
        for seconds, images in [(5.0, 10), (8.0, 0), (10.0, 10), (15.0, 10), (20.0, 10)]:
            clock["now"] = 100.0 + seconds
            bar.advance(images, f"loss {seconds}")
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines() == [
        "train x  20/40 images  2.0 images/s  0:00:10 left  loss 10.0",
        "train x  40/40 images  2.0 images/s  0:00:00 left  loss 20.0",
    ]


def test_lines_come_as_often_as_set(monkeypatch, capsys):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    with Progress("evaluate", 3) as bar:
        for _ in range(3):
            bar.advance(1)
    lines = capsys.readouterr().err.splitlines()
    assert [re.match(r"evaluate  (\d)/3 images  [\d.]+ images/s  0:00:\d\d left", x)[1] for x in lines] == [
        *"123"
    ]


def test_all_done_at_once_is_no_error(clock, capsys):
    with Progress("train", 5) as bar:
        bar.advance(5)
    assert "5/5 images" in capsys.readouterr().err


def test_a_bar(capsys):
    with Progress("fetch a[/b]", 8, bar=True) as bar:
        for _ in range(8):
            bar.advance(1, "loss 0.5")
    printed = capsys.readouterr()
    assert printed.out == ""
    for part in ("fetch a[/b]", "8/8 images", "loss 0.5"):
        assert part in printed.err
