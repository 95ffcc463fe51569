"""Files appear whole or not at all."""

import json
import math
import os
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


def test_an_error_names_the_file_that_was_meant(tmp_path):
    path = tmp_path / f"a.{'b' * 300}"
    with pytest.raises(OSError, match="name too long") as error:
        write_text(path, "")
    assert error.value.filename == str(path)


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


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002, 0o000], ids=oct)
def test_a_file_has_the_mode_that_the_umask_gives_to_any(tmp_path, mask):
    before = os.umask(mask)
    try:
        write_json(tmp_path / "result.json", 1)
        (tmp_path / "plain").touch()
    finally:
        os.umask(before)
    assert (tmp_path / "result.json").stat().st_mode & 0o777 == 0o666 & ~mask
    assert (tmp_path / "result.json").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_file_in_a_folder_of_a_group_belongs_to_the_group(tmp_path):
    try:
        os.chown(tmp_path, -1, 12345)
    except PermissionError:
        pytest.skip("only root may give a folder to any group")
    tmp_path.chmod(0o2775)
    write_json(tmp_path / "result.json", 1)
    assert (tmp_path / "result.json").stat().st_gid == 12345


def test_a_long_name_is_no_hindrance(tmp_path):
    path = tmp_path / ("a" * 250 + ".json")
    write_json(path, 1)
    assert names(tmp_path) == [path.name]


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
