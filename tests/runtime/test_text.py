"""Columns line up whatever is in the cells, and a wrong name gets the right suggestion."""

import pytest

from tood.runtime.text import aligned, did_you_mean


def test_columns_are_two_spaces_apart():
    rows = [("id", "state", "detail"), ("a", "ok", ""), ("longer", "missing", "x y")]
    assert aligned(rows).splitlines() == ["id      state    detail", "a       ok", "longer  missing  x y"]


def test_numbers_are_aligned_at_the_right():
    assert aligned([("run", "n"), ("a", 5), ("b", 10.5)], right=[1]).splitlines() == [
        "run     n",
        "a       5",
        "b    10.5",
    ]


@pytest.mark.parametrize(
    "cell", ["[red]x[/red]", "[/tmp/a]", "a\\[b", ":smiley:", f"{'x' * 500} {'y' * 500}"]
)
def test_cells_are_shown_as_they_are(monkeypatch, cell):
    monkeypatch.setenv("COLUMNS", "40")
    assert aligned([(cell, "end"), ("", "")]).splitlines()[0] == f"{cell}  end"


def test_no_rows():
    assert aligned([]) == ""


def test_a_wrong_name():
    assert did_you_mean("tod_af", ["tood_af", "tood_ab", "atss"]) == "did you mean tood_af or tood_ab? "
    assert did_you_mean("zzz", ["tood_af"]) == ""
