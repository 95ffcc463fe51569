"""Files appear whole or not at all; progress is readable in a log; the digest follows code, not prose."""

import re
import subprocess
import sys
from itertools import count
from pathlib import Path

import pytest

from tood import progress, provenance
from tood.experiments import EXPERIMENTS
from tood.files import atomic_path, read_json, write_json
from tood.progress import Progress
from tood.provenance import code_digest, config_files, training_files

# Files


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
    with pytest.raises(TypeError):
        write_json(tmp_path / "new" / "result.json", object())
    assert names(tmp_path / "new") == []


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


@pytest.mark.parametrize("value", [[], {"a": [1, None, 0.1, "é"]}, [float("inf")]], ids=str)
def test_json_round_trip(tmp_path, value):
    write_json(tmp_path / "value.json", value)
    assert read_json(tmp_path / "value.json") == value


@pytest.mark.parametrize("text", ["", '{"a": 1', "nonsense"])
def test_broken_json_is_named_with_the_mend(tmp_path, text):
    (tmp_path / "broken.json").write_text(text)
    with pytest.raises(ValueError, match=r"broken\.json: not valid JSON .*delete it"):
        read_json(tmp_path / "broken.json")


# Progress


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
    with Progress("train x", 8, bar=True) as bar:
        for _ in range(8):
            bar.advance(1, "loss 0.5")
    printed = capsys.readouterr()
    assert printed.out == ""
    for part in ("train x", "8/8 images", "loss 0.5"):
        assert part in printed.err


# Provenance

MODULE = '''"""What it does."""
# A comment

LIMIT = 3


class Thing:
    """A thing."""

    def double(self, x):
        """Twice x."""
        return 2 * x  # twice
'''
SAME = {
    "a comment": lambda text: text.replace("# twice", "# two times"),
    "no comment": lambda text: text.replace("# A comment\n", ""),
    "other docstrings": lambda text: text.replace("Twice x.", "x + x.\n\n        At length."),
    "no docstring of the module": lambda text: text.replace('"""What it does."""\n', ""),
    "no docstring of the class": lambda text: text.replace('    """A thing."""\n', ""),
    "formatting": lambda text: text.replace("2 * x", "(2\n            *x)").replace("\n\n\n", "\n"),
}
DIFFERENT = {
    "a constant": lambda text: text.replace("LIMIT = 3", "LIMIT = 4"),
    "the type of a constant": lambda text: text.replace("LIMIT = 3", "LIMIT = 3.0"),
    "an operation": lambda text: text.replace("2 * x", "2 + x"),
    "a default": lambda text: text.replace("self, x", "self, x=1"),
    "a statement less": lambda text: text.replace("LIMIT = 3", ""),
    "a string that is no docstring": lambda text: text.replace("LIMIT = 3", 'LIMIT = "3"'),
}


@pytest.fixture
def digest_of(tmp_path):
    folders = count()

    def digest(text: str, name: str = "module.py") -> str:
        folder = tmp_path / str(next(folders))
        folder.mkdir()
        (folder / name).write_text(text)
        return code_digest([folder / name])

    return digest


def test_digest_is_twelve_digits_whatever_the_folder(digest_of):
    assert re.fullmatch("[0-9a-f]{12}", digest_of(MODULE))
    assert digest_of(MODULE) == digest_of(MODULE)
    assert digest_of(MODULE) != digest_of(MODULE, "other.py")


@pytest.mark.parametrize("change", SAME)
def test_prose_does_not_change_the_digest(digest_of, change):
    assert SAME[change](MODULE) != MODULE
    assert digest_of(SAME[change](MODULE)) == digest_of(MODULE)


@pytest.mark.parametrize("change", DIFFERENT)
def test_meaning_changes_the_digest(digest_of, change):
    assert DIFFERENT[change](MODULE) != MODULE
    assert digest_of(DIFFERENT[change](MODULE)) != digest_of(MODULE)


def test_training_files_are_those_that_decide_a_training():
    found = {str(path.relative_to(provenance.PACKAGE)) for path in training_files()}
    assert {"losses.py", "heads/tood_head.py", "heads/t_head.py", "heads/parallel_head.py"} <= found
    assert {"task_alignment.py", "spatial_alignment.py", "training/loop.py", "training/data.py"} <= found
    unconcerned = {"tables.py", "cli.py", "doctor.py", "analysis", "data", "study.py"}
    assert not {path.split("/")[0] for path in found} & unconcerned


def test_all_that_a_training_imports_counts_but_what_decides_nothing():
    program = (
        "import sys, tood.training.trained\n"
        "for name, module in sys.modules.items():\n"
        "    if name.partition('.')[0] == 'tood': print(module.__file__)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    imported = {Path(line) for line in done.stdout.splitlines() if line.endswith(".py")}
    assert {path.name for path in imported - set(training_files())} == {"experiments.py", "progress.py"}


def test_a_configuration_brings_all_it_builds_on():
    files = [path.name for path in config_files(EXPERIMENTS / "configs" / "tal.py")]
    assert files == ["tal.py", "tood.py", "r50_fpn.py"]


def test_bases_may_be_several(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.py").write_text('_base_ = ["b.py", "sub/c.py"]\nx = 1\n')
    (tmp_path / "b.py").write_text("y = 1\n")
    (tmp_path / "sub" / "c.py").write_text("_base_ = '../b.py'\n")
    names = [path.resolve().relative_to(tmp_path).as_posix() for path in config_files(tmp_path / "a.py")]
    assert names == ["a.py", "b.py", "sub/c.py", "b.py"]
