"""The subcommands: what they print, where, and their exit status."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from tood.cli import main
from tood.commands import checks as doctor
from tood.commands import runs
from tood.commands.findings import Finding

REPOSITORY = Path(__file__).parents[1]


def examined(monkeypatch, *findings: Finding) -> list[tuple]:
    calls = []
    monkeypatch.setattr(doctor, "examine", lambda *asked: calls.append(asked) or list(findings))
    return calls


def test_runs_as_text(capsys):
    assert main(["runs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 60 + 2 + 7
    assert lines[61:64] == ["", "Not of the paper:", lines[63]]
    assert lines[63].split()[0] == "parallel_atss"
    assert lines[0].split() == ["id", "backbone", "epochs", "cells"]


def test_runs_as_json(capsys):
    assert main(["runs", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [run["in_paper"] for run in listed] == [True] * 60 + [False] * 7


def test_wrong_declarations_end_in_one_line(monkeypatch, tmp_path, capsys):
    (tmp_path / "runs.yaml").write_text("runs: [")
    load = runs.load_runs
    monkeypatch.setattr(runs, "load_runs", lambda: load(tmp_path / "runs.yaml"))
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


ANSWER = "overall performance\n" + "".join(
    f" Average {kind} @[ IoU={iou:9} | area={area:>6} | maxDets={limit:>3} ] = 0.{100 + number}\n"
    for number, (kind, iou, area, limit) in enumerate(
        [
            *(("Precision  (AP)", iou, "all", 100) for iou in ("0.50:0.95", "0.50", "0.75")),
            *(("Precision  (AP)", "0.50:0.95", area, 100) for area in ("small", "medium", "large")),
            *(("Recall     (AR)", "0.50:0.95", "all", limit) for limit in (1, 10, 100)),
            *(("Recall     (AR)", "0.50:0.95", area, 100) for area in ("small", "medium", "large")),
        ]
    )
)


def test_scores_of_the_server(tmp_path, capsys):
    (tmp_path / "stdout.txt").write_text(ANSWER)
    call = ["scores", str(tmp_path / "stdout.txt"), "--run", "tood_r101", "--source", "a server, 2027"]
    assert main(call) == 0
    (found,) = yaml.safe_load(capsys.readouterr().out)
    assert (found["run"], found["study"], found["source"]) == ("tood_r101", "paper", "a server, 2027")
    assert list(found["metrics"].values()) == [round(10 + number / 10, 1) for number in range(12)]
    (tmp_path / "stdout.txt").write_text(ANSWER.replace("0.1", "-1.0"))
    assert main(call) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"tood: {tmp_path / 'stdout.txt'}: the text: -1 is what pycocotools prints")
    assert main([*call[:1], "missing.txt", *call[2:]]) == 2
    assert capsys.readouterr().err == "tood: missing.txt: cannot be read: No such file or directory\n"


def test_submission_is_checked_without_torch(tmp_path, photographs, poison):
    images = photographs / "annotations/image_info_test-dev2017.json"
    image = json.loads(images.read_text())["images"][0]["id"]
    path = tmp_path / "detections_test-dev2017_x_results.zip"
    found = {"image_id": image, "category_id": 90, "bbox": [0, 0, 4.5, 3], "score": 0.5}
    outcomes = []
    for entry in (found, found | {"category_id": 0}):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(f"{path.stem}.json", json.dumps([entry]))
        call = [sys.executable, "-m", "tood.cli", "submission", path, "--images", images]
        environment = {"PYTHONPATH": f"{poison}:{REPOSITORY}", "PATH": ""}
        outcomes.append(subprocess.run(call, env=environment, capture_output=True, text=True))
    good, bad = outcomes
    assert (good.returncode, good.stderr) == (0, "")
    assert good.stdout.startswith(f"{path}: 1 detections on 1 of the 2 images of {images.name}")
    assert (bad.returncode, bad.stdout) == (2, "")
    assert bad.stderr.startswith(f"tood: {path}: detection 0: category_id 0 is not in {images.name}")


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


# The reader of the output, and the user


@pytest.mark.parametrize(
    "words", ["runs", "show tood_af", "progress", "doctor", "plan --json", "--help", "show -h"]
)
@pytest.mark.parametrize("reader", ["head -1", "true"])
def test_a_reader_that_stops_early_is_no_error(words, reader):
    call = f"set -o pipefail; {sys.executable} -m tood.cli {words} | {reader}"
    outcome = subprocess.run(["bash", "-c", call], cwd=REPOSITORY, capture_output=True, text=True)
    assert outcome.stderr == ""
    assert outcome.returncode in (0, 141)  # 0 where the reader took all


def test_closed_output():
    call = f"{sys.executable} -m tood.cli runs >&-"
    outcome = subprocess.run(["bash", "-c", call], cwd=REPOSITORY, capture_output=True, text=True)
    assert (outcome.returncode, outcome.stderr) == (0, "")


def test_a_stop_by_the_user_is_quiet(monkeypatch, capsys):
    def stop(*asked):
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor, "examine", stop)
    assert main(["doctor"]) == 130
    assert capsys.readouterr() == ("", "")
