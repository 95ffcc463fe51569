"""The subcommands: what they print, where, and their exit status."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tood.cli import main
from tood.study import declarations, doctor
from tood.study.doctor import Finding

REPOSITORY = Path(__file__).parents[1]


def examined(monkeypatch, *findings: Finding) -> list[tuple]:
    calls = []
    monkeypatch.setattr(doctor, "examine", lambda *asked: calls.append(asked) or list(findings))
    return calls


def test_runs_as_text(capsys):
    assert main(["runs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 60
    assert lines[0].split() == ["id", "backbone", "epochs", "state", "cells"]


def test_runs_as_json(capsys):
    assert main(["runs", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 60


def test_wrong_declarations_end_in_one_line(monkeypatch, tmp_path, capsys):
    (tmp_path / "runs.yaml").write_text("runs: [")
    load = declarations.load_runs
    monkeypatch.setattr(declarations, "load_runs", lambda: load(tmp_path / "runs.yaml"))
    assert main(["runs"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"tood: {tmp_path / 'runs.yaml'}: cannot be read as YAML")


def test_other_errors_keep_their_traceback(monkeypatch):
    def fail(*asked):
        raise ValueError("a mistake in the program")

    monkeypatch.setattr(doctor, "examine", fail)
    with pytest.raises(ValueError, match="a mistake in the program"):
        main(["doctor"])


@pytest.mark.parametrize(
    ("state", "required", "status"),
    [("ok", True, 0), ("note", True, 0), ("missing", False, 0), ("missing", True, 1)],
)
def test_doctor_fails_on_what_is_required(monkeypatch, capsys, state, required, status):
    examined(monkeypatch, Finding("thing", state, "is so", "do this", required, section="data"))
    assert main(["doctor"]) == status
    assert capsys.readouterr().out == f"data  thing  {state}  is so; do this\n"


def test_doctor_as_json(monkeypatch, capsys):
    calls = examined(monkeypatch, Finding("thing", "ok", "is so", section="data"))
    assert main(["doctor", "--json", "--data-root", "some/where", "--scale", "paper"]) == 0
    assert calls == [(Path("some/where"), "paper")]
    assert json.loads(capsys.readouterr().out) == [
        {"what": "thing", "state": "ok", "detail": "is so", "hint": "", "required": False, "section": "data"}
    ]


def test_doctor_with_an_unknown_scale(capsys):
    assert main(["doctor", "--scale", "papr"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("tood: ")
    assert "did you mean paper?" in error


def test_unknown_options_and_no_command(capsys):
    for arguments in ([], ["walk"], ["runs", "--walk"]):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 2


def test_starts_without_heavy_imports():
    program = """if True:
        import sys
        from tood.cli import main
        try:
            main(["--help"])
        except SystemExit:
            pass
        assert not {"torch", "mmcv", "pydantic", "rich", "yaml"} & set(sys.modules)
    """
    result = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    assert "doctor" in result.stdout
