"""Small files that are damaged: each is named, with what to do, by whatever reads it, without a traceback."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from helpers.records import finish

from tood import cli
from tood.engine.loss_log import LossLog
from tood.ledger.plans import save_study
from tood.ledger.standing import recorded
from tood.ledger.status import read_status, status_with_records
from tood.runtime.failures import InputError
from tood.runtime.files import DamagedFile, write_json
from tood.study.declarations import load_tables
from tood.study.paths import StudyPaths
from tood.study.plan import Plan
from tood.workflow import call

PLAN = Plan({"scale": "mini", "runs": "tood_af", "seeds": "0", "name": "small"})
PATHS = StudyPaths("small")
RUN = PATHS.run("tood_af", 0)
# Cut short, empty, zeros as after a loss of power, no UTF-8, other JSON, nested without end
GARBAGE = {
    "cut": b'{"state": "do',
    "empty": b"",
    "zeros": b"\0" * 64,
    "binary": b"\x80\x04\xff\xfe",
    "list": b"[]",
    "deep": b"[" * 100_000,
}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A study with one finished training."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        finish(PLAN, "tood_af", 0)
        save_study(PLAN)
    return folder


@pytest.fixture
def study(made, tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "study"
    shutil.copytree(made, folder)
    monkeypatch.chdir(folder)
    return folder


def spoil(path: Path, *keys: str | int, value: object) -> None:
    """Another value in a JSON file; a record gets the checksum that fits."""
    content = part = json.loads(path.read_text())
    for key in keys[:-1]:
        part = part[key]
    part[keys[-1]] = value
    if content.pop("checksum", None):
        text = json.dumps(content, sort_keys=True)
        content["checksum"] = hashlib.sha256(text.encode()).hexdigest()
    write_json(path, content)


def start() -> None:
    """What a start of the workflow reads, and what it does before any job."""
    recorded(PLAN, load_tables(), status_with_records(PLAN))
    call.begin(PLAN, preload=False).close()


SHOW = ("show", "tood_af", "--name", "small")
PROGRESS, REPORT = ("progress", "--name", "small", "--json"), ("report", "--name", "small")


def said(capsys, *commands: tuple[str, ...]) -> str:
    """What commands and a start of the workflow say of a damaged file; all of it without a traceback."""
    text = ""
    for command in commands:
        assert cli.main(command) in (0, 2)
    try:
        start()
    except InputError as error:
        text = str(error)
    captured = capsys.readouterr()
    return text + captured.out + captured.err


@pytest.mark.parametrize("content", GARBAGE.values(), ids=GARBAGE)
@pytest.mark.parametrize(
    "path",
    [
        *(PATHS.manifest, PATHS.options, PATHS.record("tood_af", 0)),
        *(RUN.state, RUN.provenance, RUN.ap, RUN.alignment, RUN.alignment_variants),
    ],
    ids=lambda path: path.name,
)
def test_garbage_is_named_with_what_to_do(study, capsys, path, content):
    path.write_bytes(content)
    if path == PATHS.record("tood_af", 0):
        RUN.provenance.unlink()  # else the files of the run count
    elif path.parent == RUN.folder:
        PATHS.record("tood_af", 0).unlink()  # which stands for them
    text = said(capsys, PROGRESS, SHOW)
    assert str(path) in text
    assert "delete" in text


@pytest.mark.parametrize(
    ("path", "keys", "value"),
    [
        (PATHS.manifest, ("categories",), "disc"),
        (PATHS.manifest, ("categories",), [{"id": "1", "name": "disc"}]),
        (PATHS.manifest, ("splits",), []),
        (PATHS.manifest, ("splits", "train"), {}),
        (PATHS.manifest, ("splits", "val", "sha256"), 7),
        (PATHS.manifest, ("root",), None),
        (PATHS.manifest, ("seen",), 5),
        (PATHS.manifest, ("thinnest",), 7),
        (PATHS.manifest, ("notes",), [1]),
        (PATHS.options, ("runs",), {"tood_af": 1}),
        (PATHS.options, ("runs",), [["tood_af"]]),
        (PATHS.options, ("scale",), ["mini"]),
        (PATHS.options, ("scale",), {"mini": 1}),
        (PATHS.options, ("scale",), None),
        (PATHS.options, ("seeds",), "x"),
        (PATHS.options, ("train",), 5),
        (PATHS.options, ("image_size",), {}),
        (PATHS.options, ("unknown",), 1),
        (RUN.state, ("state",), 5),
        (RUN.state, ("state",), None),
        (RUN.state, ("epoch",), "3"),
        (RUN.state, ("updated",), "yesterday"),
        (RUN.state, ("seconds",), []),
        (RUN.provenance, ("digests",), "same"),
        (RUN.provenance, ("digests", "code"), 1),
        (RUN.provenance, ("hardware",), []),
        (RUN.provenance, ("hardware", "gpu_names"), "H200"),
        (RUN.provenance, ("seconds",), "2"),
        (RUN.provenance, ("settings",), 1),
        (RUN.ap, ("AP",), "40.1"),
        (RUN.ap, ("AP",), [1]),
        (RUN.ap, ("digests",), [1]),
        (RUN.alignment, ("PCC (top-50)",), {}),
        (RUN.alignment_variants, ("before NMS",), 1),
        (RUN.alignment_variants, ("before NMS", "default", "pcc"), "x"),
    ],
    ids=lambda value: str(getattr(value, "name", value)),
)
def test_a_value_of_another_type_is_named(study, capsys, path, keys, value):
    spoil(path, *keys, value=value)
    PATHS.record("tood_af", 0).unlink()
    text = said(capsys, SHOW, REPORT)
    assert str(path) in text
    assert str(keys[-1]) in text
    assert "delete" in text


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("files",), []),
        (("files", "state.json"), "done"),
        (("files", "state.json", "state"), 1),
        (("files", "provenance.json"), None),
        (("files", "provenance.json", "digests"), {}),
        (("files", "provenance.json", "data"), {"val": 5}),
        (("files", "provenance.json", "hardware"), None),
        (("files", "ap.json", "AP"), "40"),
        (("epochs",), "twelve"),
        (("epochs",), [1, 2]),
        (("epochs", 0, "positives"), "9"),
        (("seed",), 0.0),
        (("drawn",), 5),
        (("best_anchors",), [1]),
        (("best_anchors", "share"), 1),
    ],
    ids=str,
)
def test_a_record_with_a_valid_checksum_and_another_type_is_refused(study, capsys, keys, value):
    record = PATHS.record("tood_af", 0)
    shutil.rmtree(RUN.folder)
    spoil(record, *keys, value=value)
    text = said(capsys, SHOW)
    assert f"{record}: " in text
    assert str(next(key for key in reversed(keys) if isinstance(key, str))) in text
    assert f"git checkout -- {record}" in text


def test_a_damaged_file_of_a_run_leaves_its_record_to_stand(study, capsys):
    RUN.ap.write_bytes(b"[]")
    assert read_status(PLAN, "tood_af", 0).ap == 45.0
    assert said(capsys, PROGRESS, SHOW, REPORT)


def test_an_estimate_names_a_damaged_provenance(study, capsys):
    shutil.copytree("work/small", "work/mini")
    path = StudyPaths("mini").run("tood_af", 0).provenance
    spoil(path, "seconds", value="2")
    assert cli.main(["plan", "--scale", "mini"]) == 2
    assert f"{path}: seconds: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"\x00\x80garbage\n", "line 2: not valid JSON"),
        (b"{}\n", "line 2: epoch: Field required"),
        (b"[1]\n", "line 2: Input should be"),
        (b'{"epoch": "1", "objects": 1, "positives": 1, "positive_iou": 1}\n', "line 2: epoch: "),
        (b'{"epoch": NaN, "objects": 1, "positives": 1, "positive_iou": 1}\n', "line 2: epoch: "),
        (b'{"epoch": 1, "objects": 1, "positives": 1, "positive_iou": 1, "loss": "x"}\n', "line 2: loss: "),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_damaged_line_of_the_losses_is_named(study, capsys, line, problem):
    lines = RUN.losses.read_bytes().splitlines(keepends=True)
    RUN.losses.write_bytes(b"".join([lines[0], line, *lines[1:]]))
    assert cli.main(["report", "--name", "small"]) == 2
    message = capsys.readouterr().err
    assert f"{RUN.losses}: {problem}" in message
    assert f"delete {RUN.folder}" in message


def test_a_last_line_that_is_being_written_is_left_out(study):
    whole = read_status(PLAN, "tood_af", 0).epochs
    with RUN.losses.open("ab") as file:
        file.write(b'{"epoch": 3.0, "obj\x00')
    assert read_status(PLAN, "tood_af", 0).epochs == whole


def test_a_resumed_training_names_a_damaged_line(tmp_path):
    path = tmp_path / "losses.jsonl"
    path.write_bytes(b'{"iteration": 1}\n\xff\xfe\n{"iteration": 2')
    with pytest.raises(DamagedFile, match=r"losses\.jsonl: line 2: not valid JSON.*delete"):
        LossLog(path, 1)


@pytest.mark.parametrize("content", GARBAGE.values(), ids=GARBAGE)
def test_a_damaged_word_of_the_holder_is_none(study, content):
    """It is rewritten by the next holder; whether the folder is free does not depend on it."""
    (PATHS.work / "lock.json").write_bytes(content)
    start()


@pytest.mark.parametrize(
    "text", ["", "\0\0\0", "run\n", "run,params_m\natss_af,many\n", "\x80\xff", 'a,"b\n'], ids=repr
)
def test_a_damaged_table_of_sizes_is_named(study, capsys, text):
    path = Path("results/paper/complexity.csv")
    path.parent.mkdir(parents=True)
    path.write_bytes(text.encode("latin-1"))
    assert cli.main(["report", "--name", "small"]) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"tood: {path}: ")
    assert "delete it" in message
