"""Files appear whole or not at all; progress is readable in a log; provenance tells what made a result."""

import ast
import json
import re
import shutil
import subprocess
import sys
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest

from tood.runtime import progress
from tood.runtime.files import atomic_path, read_json, write_json
from tood.runtime.progress import Progress
from tood.study import provenance
from tood.study.declarations import EXPERIMENTS
from tood.study.plan import Plan
from tood.study.provenance import (
    code_digest,
    config_files,
    is_stale,
    measured_identity,
    record,
    revision,
    training_code,
    training_files,
)

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


# Every kind of node that a later Python gave more fields, or might.
SYNTAX = """
from a import b as c
@d
class E(F, metaclass=G):
    x: int = None
    async def f(self, a, /, b=1, *c, d, e=(), **g) -> "T":
        async with h as i: await j
        return f"{a!r:>{b}}" f"{c=}" "d", [*e], {**g, 1: ...}, lambda: (yield)
def k():
    try: pass
    except* L as m: raise M from None
    match n:
        case {"o": [1, *_], **p} | Q(r=2) if s: del t
"""


def grown(node: object, value: object) -> object:
    """A copy of a syntax tree as of a Python whose nodes have one more field, all but constants."""
    if isinstance(node, list):
        return [grown(item, value) for item in node]
    if not isinstance(node, ast.AST):
        return node
    if isinstance(node, ast.Constant):  # of which no Python yet changed the fields; empty ones mean something
        return node
    kind = type(type(node).__name__, (type(node),), {"_fields": (*node._fields, "novelty")})
    fields = {name: grown(field, value) for name, field in ast.iter_fields(node)}
    return kind(**fields, novelty=value)


def with_empty_formats(tree: ast.AST) -> ast.AST:
    """The tree with empty texts in formatted strings, of which Python 3.12 has some and 3.11 none."""
    for node in list(ast.walk(tree)):
        if isinstance(node, ast.JoinedStr):
            node.values = [part for value in node.values for part in (value, ast.Constant(""))]
    return tree


@pytest.fixture
def digest_as(digest_of, monkeypatch):
    """Digest of SYNTAX if its tree is changed by a function, as another Python might have parsed it."""

    def digest(change) -> str:
        parsed = []

        def parse(source: str) -> ast.AST:
            parsed.append(source)
            return change(ast.parse(source))

        with monkeypatch.context() as patch:
            patch.setattr(
                provenance, "ast", SimpleNamespace(**vars(ast) | {"parse": parse})
            )  # not pytest's own
            found = digest_of(text := f"{SYNTAX}# A text that was not parsed before: {change}\n")
        assert parsed == [text]
        return found

    return digest


OTHER_PYTHONS = {
    "a field that is a list": lambda tree: grown(tree, []),  # 3.12: `type_params`
    "a field that may be absent": lambda tree: grown(tree, None),  # 3.13: `default_value`
    "formats that end in nothing": with_empty_formats,
}


@pytest.mark.parametrize("change", OTHER_PYTHONS.values(), ids=OTHER_PYTHONS)
def test_the_digest_is_the_same_under_other_pythons(digest_of, digest_as, change):
    """Where their syntax trees differ in what old syntax does not use, as `ast.dump` would show."""
    assert ast.dump(change(ast.parse(SYNTAX))) != ast.dump(ast.parse(SYNTAX))
    assert digest_as(change) == digest_of(SYNTAX)


def test_new_syntax_changes_the_digest(digest_of, digest_as):
    """A field that an older Python lacks counts where it holds something."""
    assert digest_as(lambda tree: grown(tree, [ast.Constant(1)])) != digest_of(SYNTAX)


def test_what_does_not_train_or_is_prose_retrains_nothing(monkeypatch, tmp_path):
    for name in ("tood", "workflow"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(EXPERIMENTS.parent / name, tmp_path / name, ignore=ignored)
    monkeypatch.setattr(provenance, "PACKAGE", tmp_path / "tood")
    monkeypatch.setattr(provenance, "SCRIPTS", tmp_path / "workflow/scripts")
    before = training_code("tood.py")
    assert before != training_code("atss.py")

    def append(name, text):
        path = tmp_path / name
        path.write_text(path.read_text() + text)

    plotting = ("tood/analysis/maps.py", "workflow/scripts/figure1.py", "workflow/scripts/sweeps.py")
    for name in (*plotting, "tood/tables.py", "tood/status.py", "tood/overview.py", "tood/cli.py"):
        append(name, "\nLIMIT = 3\n")
    loop = tmp_path / "tood/training/loop.py"
    loop.write_text(loop.read_text().replace('"""', '"""In other words: ', 1) + "# A comment\n")
    assert training_code("tood.py") == before
    for name in ("tood/training/loop.py", "workflow/scripts/train.py"):
        append(name, "\nLIMIT = 3\n")
        assert training_code("tood.py") != before
        before = training_code("tood.py")


def test_training_files_are_those_that_decide_a_training():
    found = {str(path.relative_to(provenance.PACKAGE)) for path in training_files()}
    assert {"losses.py", "heads/tood_head.py", "heads/t_head.py", "heads/parallel_head.py"} <= found
    assert {"task_alignment.py", "spatial_alignment.py", "training/loop.py", "training/data.py"} <= found
    unconcerned = {"tables.py", "cli.py", "doctor.py", "analysis", "data", "study.py"}
    assert not {path.split("/")[0] for path in found} & unconcerned


def test_all_that_a_training_imports_counts_but_what_decides_nothing():
    program = (
        "import sys, tood.evaluation.trained_run\n"
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


SETTINGS = Plan({"name": "x", "iterations": 3}).settings("tood_af")
MANIFEST = {
    "root": "some/where",
    "categories": [{"id": 1, "name": "disc"}],
    "splits": {
        name: {"images": 5, "annotations": 9, "sha256": name, "image_digest": f"images of {name}"}
        for name in ("train", "val")
    },
}
CALL = dict(settings=SETTINGS, seed=4, config={"lr": 0.01}, manifest=MANIFEST, code="c0de", device="cpu")


def test_a_record_at_the_start_and_at_the_end():
    start = record(**CALL, gpus=0)
    assert json.loads(json.dumps(start)) == start
    assert (start["run"], start["seed"], start["settings"]) == ("tood_af", 4, SETTINGS)
    assert start["data"]["val"] == {"images": 5, "sha256": "val", "image_digest": "images of val"}
    assert start["packages"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert re.match(r"\d+\.\d+", start["packages"]["onedl-mmdetection"])
    assert start["hardware"]["cores"] >= 1
    assert start["hardware"]["memory_mb"] > 100
    assert not {start[key] for key in ("finished", "seconds", "gpu_hours", "attempts")} - {None}

    summary = {"seconds": 5400.0, "peak_memory_mb": 123, "attempt": 2}
    end = record(**CALL, gpus=4, summary=summary)
    assert (end["gpu_hours"], end["attempts"], end["peak_memory_mb"]) == (6.0, 2, 123)
    assert end["finished"] >= end["started"] == start["started"]
    assert end["identity"] == start["identity"]
    assert record(**CALL, gpus=0, summary=summary)["gpu_hours"] == 0


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({}, []),
        ({"seed": 5, "device": "another", "config": {"lr": 0.02}}, []),  # of these the identity is not made
        ({"manifest": {**MANIFEST, "root": "elsewhere"}}, []),
        ({"code": "c0d3"}, ["code"]),
        ({"settings": SETTINGS | {"iterations": 4}}, ["settings"]),
        ({"manifest": MANIFEST | {"categories": []}, "code": "c0d3"}, ["code", "data"]),
    ],
)
def test_stale_is_what_differs(change, parts):
    expected = record(**CALL, gpus=0)["identity"]
    assert is_stale(record(**CALL | change, gpus=1), expected) == parts
    assert is_stale({}, expected) == ["code", "settings", "data"]


def test_a_measurement_takes_on_the_identity_of_the_training(tmp_path):
    assert measured_identity(tmp_path / "model.pth", "how") == {"evaluation": "how"}
    made = record(**CALL, gpus=0)
    write_json(tmp_path / "provenance.json", made)
    assert measured_identity(tmp_path / "model.pth", "how") == {**made["identity"], "evaluation": "how"}


def test_gpus_are_named_as_the_loaded_torch_sees_them(monkeypatch):
    cuda = SimpleNamespace(
        is_available=lambda: True, device_count=lambda: 2, get_device_name=lambda index: f"H200 {index}"
    )
    torch = SimpleNamespace(cuda=cuda, version=SimpleNamespace(cuda="12.8"))
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setattr(provenance, "_output", lambda program, *_: program and "570.1\n570.1")
    found = record(**CALL, gpus=4)["hardware"]  # two machines of two
    assert (found["gpu_names"], found["driver"], found["cuda"]) == (["H200 0", "H200 1"], "570.1", "12.8")
    assert record(**CALL, gpus=0)["hardware"]["gpu_names"] == []


def test_revision(monkeypatch, tmp_path):
    monkeypatch.setattr(provenance, "PACKAGE", tmp_path / "tood")
    assert revision() is None

    def git(*arguments):
        author = ("-c", "user.name=A", "-c", "user.email=a@b.c")
        done = subprocess.run(
            ["git", *author, "-C", tmp_path, *arguments], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    git("init", "-q")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-qm", "Begin")
    assert revision() == {"commit": git("log", "-1", "--format=%H"), "dirty": False}
    (tmp_path / "untracked").write_text("1")
    assert not revision()["dirty"]
    (tmp_path / "file").write_text("2")
    assert revision()["dirty"]
