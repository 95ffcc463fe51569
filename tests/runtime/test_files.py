"""Files appear whole or not at all."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from tood.runtime.files import atomic_path, read_json, to_json, write_json, write_text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "result.json"
    write_json(path, "old")

    def write_half():
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        write_half()
    assert names(tmp_path) == ["result.json"]
    assert read_json(path) == "old"


def test_an_exception_leaves_no_new_file(tmp_path):
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "new" / "result.txt", "half \ud800")
    assert names(tmp_path / "new") == []
    with pytest.raises(TypeError):
        write_json(tmp_path / "result.json", object())
    assert names(tmp_path) == ["new"]


def test_a_reader_never_meets_half_a_file(tmp_path):
    path = tmp_path / "result.json"
    write_json(path, "old")
    with atomic_path(path) as temporary, temporary.open("w") as file:
        file.write('"ne')
        file.flush()
        assert read_json(path) == "old"
        file.write('w"')
    assert read_json(path) == "new"
    assert names(tmp_path) == ["result.json"]


def test_the_temporary_file_keeps_the_suffix_and_stays_in_the_folder(tmp_path):
    with atomic_path(tmp_path / "deep" / "figure.svg") as temporary:
        assert (temporary.parent, temporary.suffix) == (tmp_path / "deep", ".svg")
        assert temporary.name.startswith(".")


def test_others_may_read_the_file_and_only_the_owner_write_it(tmp_path):
    write_json(tmp_path / "result.json", 1)
    assert (tmp_path / "result.json").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("value", [[], {"a": [1, None, 0.1, "é"]}, [-0.0, 1e308]], ids=str)
def test_json_round_trip(tmp_path, value):
    write_json(tmp_path / "value.json", value)
    assert read_json(tmp_path / "value.json") == value


@pytest.mark.parametrize("text", ["", '{"a": 1', "nonsense"])
def test_broken_json_is_named_with_a_hint(tmp_path, text):
    (tmp_path / "broken.json").write_text(text)
    with pytest.raises(ValueError, match=r"broken\.json: not valid JSON .*delete it"):
        read_json(tmp_path / "broken.json")


def test_json_has_no_nan(tmp_path):
    """RFC 8259 has no such number, and readers in other languages stop at it."""
    numbers = {"AP": math.nan, "of": [1.5, (math.inf, -math.inf)], "numpy": np.float64("nan"), "n": 3}
    write_json(tmp_path / "numbers.json", numbers)

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    found = json.loads((tmp_path / "numbers.json").read_text(), parse_constant=refuse)
    assert found == {"AP": None, "of": [1.5, [None, None]], "numpy": None, "n": 3}
    assert to_json([0.5, math.nan]) == "[0.5, null]"
