"""The subcommands: what they print, where, and their exit status."""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from tood.cli import COMMANDS, main
from tood.commands import checks as doctor
from tood.commands import folder, runs
from tood.commands.findings import Finding
from tood.ledger.plans import save_study
from tood.study.options import Study
from tood.study.plan import Plan

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


def test_without_a_command_it_helps(capsys):
    assert main([]) == 0
    printed = capsys.readouterr().out
    assert all(f"\n    {command} " in printed or f"\n    {command}\n" in printed for command in COMMANDS)


def test_a_mistyped_command_is_named_with_the_one_that_was_meant(capsys):
    assert main(["prgress"]) == 2
    said = "tood: prgress: there is no such command; did you mean progress? `tood` lists them\n"
    assert capsys.readouterr() == ("", said)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("runs --jsn", "tood runs: --jsn: there is no such option; did you mean --json? "),
        ("show --nmae=x tood_af", "tood show: --nmae: there is no such option; did you mean --name? "),
        # Both are wrong. The option that is lacking is the one that was mistyped.
        ("detect --runn tood_af a.png", "tood detect: --runn: there is no such option; did you mean --run? "),
        ("show tood_af more", "tood show: unrecognized arguments: more; "),
        ("show", "tood show: the following arguments are required: RUN; "),
        ("detect a.png --run x --device gpu", "tood detect: argument --device: invalid choice: 'gpu'"),
        ("detect a.png --run x --score high", "tood detect: argument --score: high is no number from 0 to 1"),
    ],
)
def test_a_mistyped_option_is_named_with_the_one_that_was_meant(words, said, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(words.split())
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(said)
    assert line.endswith(f"`tood {words.split()[0]} --help` lists the options")


def test_a_file_that_cannot_be_written_is_named_in_one_line(tmp_path, capsys):
    file = tmp_path / "file"
    file.touch()
    assert main(["compare", "mini", "cells", "--output", str(file / "a.csv")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("tood: ")
    assert str(file) in line


def test_what_libraries_print_is_left_out(tmp_path, monkeypatch, capsys):
    importing = SimpleNamespace(import_file=lambda *given: print("of a library") or "done")
    monkeypatch.setitem(sys.modules, "tood.evaluation.importing", importing)
    (tmp_path / "a.pth").touch()
    assert main(["import", str(tmp_path / "a.pth"), "--run", "tood_af"]) == 0
    assert capsys.readouterr().out == "done\n"


def test_a_table_is_no_run_whose_weights_could_be_kept(capsys):
    assert main(["keep", "table6", "--name", "mini"]) == 2
    assert "unknown run 'table6'" in capsys.readouterr().err


@pytest.fixture
def only_records(tmp_path, monkeypatch):
    """A folder with records of `mini` for one run, the first of them with weights, and no `work`."""
    kept = Path("results/mini")
    (tmp_path / kept / "runs/tood_af").mkdir(parents=True)
    for file in ("seed0.json", "seed0.pth", "seed1.json"):
        name = kept / "runs/tood_af" / file
        shutil.copyfile(REPOSITORY / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)


def test_weights_that_a_clone_has_are_not_kept_again(only_records, capsys):
    assert main(["keep", "tood_af", "--name", "mini"]) == 0
    assert capsys.readouterr().out.startswith(
        "results/mini/runs/tood_af/seed0.pth: the weights are kept already; "
    )
    assert main(["keep", "tood_af", "--name", "mini", "--seed", "1"]) == 2
    assert "only the machine that trained the run has it" in capsys.readouterr().err


@pytest.mark.parametrize(("study", "named"), [(["--name", "mini"], " --name mini"), ([], "")])
def test_what_shows_more_of_a_run_shows_the_same_study(only_records, capsys, study, named):
    assert main(["show", "tood_af", *study]) == 0
    assert capsys.readouterr().out.endswith(f": tood show tood_af --full{named}\n")


def test_version(capsys):
    assert main(["--version"]) == 0
    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    printed = capsys.readouterr().out
    assert printed.startswith(f"tood {version}")
    assert printed.endswith(f", in {REPOSITORY}\n")


def test_the_package_is_the_command():
    call = [sys.executable, "-m", "tood", "prgress"]
    outcome = subprocess.run(call, cwd=REPOSITORY, capture_output=True, text=True)
    assert (outcome.returncode, outcome.stderr[:14]) == (2, "tood: prgress:")


@pytest.mark.parametrize(
    "words",
    [
        "detect none.png --run tood_af",
        "detect image.png --checkpoint none.pth",
        "detect image.png --run tood_af",  # which is not trained
        "maps --image none.png --box 1,2,3,4 --label disc --run tood_af",
        "maps --image image.png --checkpoint none.pth",
        "import none.pth --run tood_af",
        "export --checkpoint none.pth",
        "classes --detections none.json --annotations image.png",
        "scores none.txt --run tood_af --source x",
    ],
)
def test_a_file_that_is_not_there_is_named_before_anything_heavy_is_imported(words, tmp_path, poison):
    (tmp_path / "image.png").touch()
    (tmp_path / "Snakefile").touch()
    call = [sys.executable, "-m", "tood", *words.split()]
    environment = {"PYTHONPATH": f"{poison}:{REPOSITORY}", "PATH": ""}
    outcome = subprocess.run(call, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (outcome.returncode, outcome.stdout) == (2, "")
    lacking = (
        "model.pth is not there" if "none" not in words else next(w for w in words.split() if "none" in w)
    )
    assert lacking in outcome.stderr
    assert not (poison / "imported").exists()


# The folder


@pytest.fixture
def elsewhere(tmp_path, workspace, monkeypatch) -> Path:
    """A folder that is no clone; the package is in one, where a study was called."""
    monkeypatch.chdir(workspace.path)
    save_study(Plan({"runs": "tood_af", "name": "mine"}))
    monkeypatch.setattr(folder, "REPOSITORY", workspace.path)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return Path.cwd()


def test_in_another_folder_the_studies_of_the_clone_are_shown(elsewhere, workspace, capsys):
    assert main(["progress"]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("study mine (scale smoke), the last that was called")
    assert said.err == (
        f"tood: no study was called in {elsewhere}; this is about the studies in {workspace.path}\n"
    )


def test_files_of_the_command_line_stay_those_of_the_folder(elsewhere, workspace):
    (elsewhere / "a.png").touch()
    words = ["tood_af", "data_root=cells", "released=", "scale=a.png"]
    given = {"output": Path("out"), "image": "a.png", "images": ["*.png", "b.png"], "config": words}
    options = argparse.Namespace(run="a.png", **given)
    folder.enter_clone(options)
    assert Path.cwd() == workspace.path
    assert vars(options) == {
        "output": elsewhere / "out",
        "image": str(elsewhere / "a.png"),
        "images": [str(elsewhere / "*.png"), "b.png"],
        "config": ["tood_af", f"data_root={elsewhere / 'cells'}", "released=", "scale=a.png"],
        "run": "a.png",
    }


def test_every_option_of_a_study_that_is_a_path_is_known():
    paths = {name for name, field in Study.model_fields.items() if "Path" in str(field.annotation)}
    assert set(folder.PATH_OPTIONS) == paths


def test_a_folder_with_studies_is_not_left(elsewhere, capsys):
    save_study(Plan({"name": "other"}))
    assert main(["progress"]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("study other (scale smoke), the last that was called\n")
    assert said.err == ""


@pytest.mark.parametrize(
    "left",
    [
        "results/cells/study.json",
        "results/sweeps/tried/metrics.csv",
        "results/mini/runs/tood_af/seed0.json",
    ],
)
def test_a_folder_with_results_alone_is_not_left(elsewhere, workspace, left):
    """As of a study that was copied from another machine, or of a variation."""
    Path(left).parent.mkdir(parents=True)
    Path(left).touch()
    folder.enter_clone(argparse.Namespace())
    assert Path.cwd() == elsewhere


def test_a_package_without_a_clone_says_where_to_run_this(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(folder, "EXPERIMENTS", tmp_path / "experiments")
    for command in ("runs", "progress"):
        assert main([command]) == 2
        assert "Run this in a clone" in capsys.readouterr().err


def test_the_installed_package_is_enough_for_imports(tmp_path):
    """As `pip install git+...` leaves it: the package alone."""
    shutil.copytree(REPOSITORY / "tood", tmp_path / "tood", ignore=shutil.ignore_patterns("__pycache__"))
    assert (tmp_path / "tood/py.typed").exists()
    environment = {"PYTHONPATH": str(tmp_path), "PATH": os.environ["PATH"], "HOME": os.environ["HOME"]}
    program = "import tood; from tood.heads import TOODHead; print(tood.__file__)"
    call = [sys.executable, "-c", program]
    outcome = subprocess.run(call, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (outcome.returncode, outcome.stdout) == (0, f"{tmp_path / 'tood/__init__.py'}\n"), outcome.stderr
    call = [sys.executable, "-m", "tood", "progress"]
    outcome = subprocess.run(call, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert outcome.returncode == 2
    assert "Run this in a clone" in outcome.stderr


# Completion


def completed(line: str, capsys) -> list[str]:
    assert main(["completion", "--words", *line.split(" ")]) == 0
    return capsys.readouterr().out.split()


def test_what_is_typed_is_completed(elsewhere, workspace, monkeypatch, capsys):
    monkeypatch.chdir(workspace.path)
    assert completed("pro", capsys) == ["progress"]
    assert completed("", capsys) == list(COMMANDS)
    assert completed("show --f", capsys) == ["--full"]
    assert completed("runs --", capsys) == ["--help", "--json"]
    assert completed("show tood_a", capsys)[:2] == ["tood_af", "tood_ab"]
    assert completed("detect a.png --run fov", capsys)[0] == "fovea"
    assert completed("show tood_af --name ", capsys) == ["mine"]
    assert completed("plan --scale p", capsys) == ["paper"]
    assert completed("maps --levels ", capsys) == ["best", "all"]
    assert completed("assign --config na", capsys) == ["name="]
    assert completed("detect ", capsys) == []  # files, which the shell knows
    assert completed("prgress ", capsys) == []


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_bash_completes(tmp_path):
    program = tmp_path / "tood"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m tood "$@"\n')
    program.chmod(0o755)
    typed = "COMP_WORDS=(tood show --f); COMP_CWORD=2"
    script = f'eval "$(tood completion bash)"; {typed}; _tood; echo "${{COMPREPLY[@]}}"'
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(REPOSITORY)}
    call = ["bash", "-c", script]
    outcome = subprocess.run(call, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert (outcome.stdout, outcome.stderr) == ("--full\n", "")


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
    ("words", "reader"),
    [
        *((words, "head -1") for words in ("show tood_af", "progress", "doctor", "plan --json", "show -h")),
        *((words, "true") for words in ("runs", "--help")),
    ],
)
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
