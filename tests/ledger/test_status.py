"""How runs stand, from the files they leave: states, staleness, and what is printed of them."""

import json
import math
import os
import shlex
import shutil
import socket
from types import SimpleNamespace

import pandas as pd
import pytest
from helpers import records
from rich.console import Console

from tood.cli import main
from tood.commands import progress as overview
from tood.ledger.plans import declare_study, load_study, save_study
from tood.ledger.provenance import evaluation_digest
from tood.ledger.status import (
    HEARTBEAT_TIMEOUT,
    Status,
    call_of,
    expected_digests,
    most_urgent,
    read_status,
    study_status,
    trained_weights,
)
from tood.runtime.files import write_json
from tood.runtime.locks import claim
from tood.study.declarations import ExperimentError
from tood.study.paths import StudyPaths
from tood.study.plan import Plan

NOW = 1_800_000_000.0
OPTIONS = {"runs": "atss_af,tood_af,tal", "name": "tiny", "iterations": 300}
MANIFEST = records.MANIFEST | {"root": "anywhere", "categories": [{"id": 1, "name": "disc"}]}
RUNNING = {
    "state": "running",
    "updated": NOW,
    "device": "NVIDIA H200 x2",
    "attempt": 2,
    "epoch": 3,
    "epochs": 12,
    "iteration": 100,
    "iterations": 300,
    "images_per_second": 81.25,
    "seconds_left": 400.0,
}
AP = {"AP": 40.14, "AP50": 57.0, "AP75": 43.0, "APS": math.nan, "APM": 44.0, "APL": 51.0}


@pytest.fixture
def plan(workspace, monkeypatch) -> Plan:
    """A study that was called, with a checked dataset; the working directory is its workspace."""
    monkeypatch.chdir(workspace.path)
    plan = Plan(OPTIONS)
    save_study(plan)
    write_json(workspace.path / "work/tiny/manifest.json", MANIFEST)
    monkeypatch.setattr("time.time", lambda: NOW)
    return plan


def leave(plan: Plan, run: str, report: dict | None, ap: dict | None = None, **digests: str) -> None:
    """The files of one run, made with what the plan expects but for what `digests` changes of it."""
    folder = StudyPaths(plan.name).run(run, 0).folder
    trained = expected_digests(plan, run)
    evaluated = {"evaluation": evaluation_digest("ap.json", plan.study.val_images)}
    if report is not None:
        write_json(folder / "state.json", report)
        write_json(folder / "provenance.json", {"digests": trained | digests})
    if ap is not None:
        write_json(folder / "ap.json", {**ap, "digests": {**trained, **evaluated, **digests}})


def status(plan: Plan, run: str = "tood_af") -> Status:
    return read_status(plan, run, 0)


# States


def test_nothing_left_is_pending(plan):
    assert [found.state for found in study_status(plan)] == ["pending"] * 3


@pytest.mark.parametrize("state", ["failed", "interrupted", "diverged", "oom", "done", "running"])
def test_a_state_is_what_the_trainer_says(plan, state):
    leave(plan, "tood_af", {**RUNNING, "state": state, "reason": "two\n lines"})
    assert (status(plan).state, status(plan).reason) == (state, "two lines")
    assert status(plan, "atss_af").state == "pending"


def test_a_trainer_that_stopped_beating_has_failed(plan, monkeypatch):
    leave(plan, "tood_af", RUNNING)
    monkeypatch.setattr("time.time", lambda: NOW + HEARTBEAT_TIMEOUT)
    assert status(plan).state == "running"
    monkeypatch.setattr("time.time", lambda: NOW + HEARTBEAT_TIMEOUT + 1)
    lost = status(plan)
    assert lost.state == "failed"
    assert lost.reason.startswith("no heartbeat since 2027-01-1")


@pytest.mark.parametrize("name", ["state.json", "provenance.json", "ap.json"])
@pytest.mark.parametrize("content", ['{"state": "do', "[]", '\x00"'])
def test_a_damaged_file_fails_its_run_alone(plan, name, content):
    leave(plan, "tood_af", {"state": "done"}, AP)
    leave(plan, "atss_af", {"state": "done"}, AP)
    (StudyPaths(plan.name).run("tood_af", 0).folder / name).write_text(content)
    assert status(plan).state == "failed"
    assert f"tood_af/seed0/{name}: " in status(plan).reason
    assert "delete it" in status(plan).reason
    assert status(plan, "atss_af").state == "done"


HERE = {**RUNNING, "host": socket.gethostname(), "pid": 4711}


def test_a_killed_trainer_of_this_host_has_failed_at_once(plan):
    """SIGKILL leaves no time to say so; the system frees the lock."""
    leave(plan, "tood_af", HERE)
    folder = StudyPaths(plan.name).run("tood_af", 0).folder
    with claim(folder):
        assert status(plan).state == "running"
    found = status(plan)
    assert found.state == "failed"
    for part in (
        "process 4711 ended without a word",
        "SIGKILL",
        "memory",
        "micro_batch",
        "mem_mb",
        "call the",
    ):
        assert part in found.reason


def test_a_trainer_of_another_host_is_judged_by_its_heartbeat_alone(plan):
    leave(plan, "tood_af", {**HERE, "host": "elsewhere"})
    assert status(plan).state == "running"


@pytest.mark.parametrize(("silence", "state"), [(10, "running"), (HEARTBEAT_TIMEOUT + 1, "failed")])
def test_a_heartbeat_of_a_clock_that_is_ahead_is_that_of_the_file(plan, silence, state):
    leave(plan, "tood_af", {**RUNNING, "updated": NOW + 86_400})
    path = StudyPaths(plan.name).run("tood_af", 0).state
    os.utime(path, (NOW - silence, NOW - silence))
    assert status(plan).state == state


def test_an_unknown_state_is_named(plan):
    leave(plan, "tood_af", {"state": "asleep"})
    assert (status(plan).state, "'asleep'" in status(plan).reason) == ("failed", True)


def test_of_several_seeds_the_one_that_needs_attention_stands_for_the_run():
    assert most_urgent(["done", "pending", "oom", "running"]) == "oom"
    assert most_urgent(["done", "stale"]) == "stale"


# Staleness


def test_what_would_be_made_the_same_now_is_not_stale(plan):
    leave(plan, "tood_af", {"state": "done"}, AP)
    assert (status(plan).state, status(plan).stale, status(plan).ap) == ("done", [], 40.14)


@pytest.mark.parametrize("part", ["code", "settings", "data"])
@pytest.mark.parametrize("state", ["done", "diverged"])
def test_the_part_that_differs_is_named(plan, part, state):
    """A failure under other code or settings says nothing of now, either."""
    leave(plan, "tood_af", {"state": state, "reason": "the loss is nan"}, AP, **{part: "another"})
    found = status(plan)
    assert (found.state, found.stale, found.results["ap.json"].stale) == ("stale", [part], [part])
    assert f"other {part} than now" in found.reason


@pytest.mark.parametrize(
    "options",
    [
        {
            "scale": "mini",
            "name": "birds",
            "data_root": "my birds",
            "image_size": "96,64",
            "runs": "tal,atss_af",
        }
        | {"train": "a b.json:photos", "val": "val.json:photos", "seeds": "1,2", "fresh": True},
        {"scale": "paper", "runs": "tood_r101", "weights": "released"},
    ],
)
def test_the_call_of_a_study_is_that_study(options):
    command, *words = shlex.split(call_of(Plan(options)))
    given = dict(word.split("=", 1) for word in words[words.index("--config") + 1 :])
    assert (command, Plan(given).study) == ("snakemake", Plan(options).study)


def test_other_options_are_other_settings(plan):
    leave(plan, "tood_af", {"state": "done"}, AP)
    assert status(Plan({**OPTIONS, "iterations": 301})).stale == ["settings"]


def test_other_images_are_another_evaluation_only(plan):
    leave(plan, "tood_af", {"state": "done"}, AP)
    found = status(Plan({**OPTIONS, "val_images": 5}))
    assert (found.state, found.stale) == ("stale", ["evaluation"])


@pytest.mark.parametrize(("split", "key"), [("train", "sha256"), ("val", "image_digest")])
def test_other_data_make_stale_and_another_place_does_not(plan, workspace, split, key):
    leave(plan, "tood_af", {"state": "done"}, AP)
    manifest = workspace.path / "work/tiny/manifest.json"
    write_json(manifest, {**MANIFEST, "root": "elsewhere"})
    assert status(plan).stale == []
    splits = MANIFEST["splits"] | {split: MANIFEST["splits"][split] | {key: "another"}}
    write_json(manifest, {**MANIFEST, "splits": splits})
    assert status(plan).stale == ["data"]
    manifest.unlink()  # then nobody knows
    assert status(plan).stale == ["data"]


def test_annotations_that_changed_since_the_check_make_results_stale(plan):
    """Before another check, too. Files that are not there, as on a disk that is away, do not count."""
    leave(plan, "tood_af", {"state": "done"}, AP)
    assert status(plan).stale == []
    for split in plan.splits.values():
        write_json(plan.data_root / split.annotations, {"images": []})
    assert (status(plan).state, status(plan).stale) == ("stale", ["data"])


def test_an_old_measurement_of_a_new_training_is_stale(plan):
    leave(plan, "tood_af", {"state": "done"}, AP, settings="another")
    leave(plan, "tood_af", {"state": "done"})
    assert (status(plan).state, status(plan).stale) == ("stale", ["settings"])


def test_weights_of_unknown_origin_are_stale(plan):
    leave(plan, "tood_af", {"state": "done"}, AP)
    StudyPaths(plan.name).run("tood_af", 0).provenance.unlink()
    assert status(plan).stale == ["code", "settings", "data"]


def test_a_failure_before_there_was_provenance_is_a_failure(plan):
    leave(plan, "tood_af", {"state": "failed", "reason": "no such file"})
    StudyPaths(plan.name).run("tood_af", 0).provenance.unlink()
    assert (status(plan).state, status(plan).reason) == ("failed", "no such file")


def test_a_new_training_is_running_while_the_old_measurement_is_stale(plan):
    leave(plan, "tood_af", {"state": "done"}, AP, code="another")
    leave(plan, "tood_af", RUNNING)
    assert (status(plan).state, status(plan).results["ap.json"].stale) == ("running", ["code"])


# Which study


def test_a_study_is_found_again_as_it_was_called(workspace, monkeypatch):
    monkeypatch.chdir(workspace.path)
    assert load_study().name == "smoke"
    options = {"scale": "paper", "name": "mine", "runs": "tood_af", "seeds": "3,5", "data_root": "some/where"}
    called = Plan({**options, "batch_size": 2, "weights": "random", "device": "cpu", "val_images": 4})
    save_study(called)
    for found in (load_study(), load_study("mine")):
        assert found.study == called.study
        assert found.settings("tood_af") == called.settings("tood_af")
    save_study(Plan({"scale": "mini", "name": "sweeps/mini_lr0.02", "lr": 0.02}))
    assert load_study("sweeps/mini_lr0.02").study.lr == 0.02
    assert load_study("mini").scale.name == "mini"
    with pytest.raises(ExperimentError, match=r"did you mean mine.* there are mine, mini, paper, smoke"):
        load_study("min_e")


def test_a_study_with_records_is_known_where_it_was_never_called(workspace, monkeypatch, capsys):
    """As in a clone, which has neither its data nor anything in `work`."""
    monkeypatch.chdir(workspace.path)
    options = {"scale": "mini", "name": "mine", "schedule": 2, "runs": "tood_af,table6", "device": "cpu"}
    called = Plan(options)
    for run, seed in (("tood_af", 1), ("atss_af", 0)):
        records.finish(called, run, seed, epochs=24)
    save_study(called)
    declare_study("mine")
    shutil.rmtree("work")
    copy = StudyPaths("mine").record("tood_af", "1 (copy)")
    shutil.copy(StudyPaths("mine").record("tood_af", 1), copy)
    shutil.copytree(copy.parent, copy.parents[1] / "not_declared_any_more")
    found = load_study("mine")
    assert [run.id for run in found.runs] == ["tood_af", "atss_af"]
    assert found.seeds == (0, 1)
    assert (found.study.device, found.study.schedule) == (None, 2)
    assert found.settings("tood_af") == called.settings("tood_af")
    assert main(["show", "tood_af", "--name", "mine"]) == 0
    assert " 46.0 " in capsys.readouterr().out
    declared = StudyPaths("mine").declaration.read_bytes()
    assert b"table6" in declared
    assert main(["report", "--name", "mine"]) == 0
    assert StudyPaths("mine").declaration.read_bytes() == declared
    with pytest.raises(ExperimentError, match="there are mine, mini, paper, smoke"):
        load_study("min_e")


def test_the_study_of_a_scale_has_no_declaration(workspace, monkeypatch):
    monkeypatch.chdir(workspace.path)
    save_study(Plan({"scale": "mini", "runs": "tood_af"}))
    declare_study("mini")
    assert not StudyPaths("mini").declaration.exists()


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        ({"runs": "atss_af"}, True),
        ({"runs": "table6", "data_root": "elsewhere"}, True),
        ({"seeds": "5", "device": "cpu"}, True),
        ({"runs": "tood_af,table6"}, False),
        ({"runs": "table6,table3"}, False),
        ({"runs": "atss_af", "schedule": 3}, False),
    ],
)
def test_a_call_of_a_part_leaves_the_declaration(workspace, monkeypatch, change, kept):
    monkeypatch.chdir(workspace.path)
    options = {"name": "mine", "scale": "mini", "runs": "table6", "data_root": "data"}
    declared = []
    for each in (options, options | change):
        save_study(Plan(each))
        declare_study("mine")
        declared.append(StudyPaths("mine").declaration.read_bytes())
    assert (declared[0] == declared[1]) == kept


# What is printed


def test_progress_in_a_log(plan, capsys):
    leave(plan, "tood_af", RUNNING)
    leave(plan, "tal", {**RUNNING, "state": "diverged", "reason": "the loss is nan"}, AP, code="x")
    leave(plan, "atss_af", {"state": "done", "seconds": 1200.0}, AP)
    assert main(["progress"]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header == "study tiny (scale smoke), the last that was called"
    rows = {line.split()[0]: line.split() for line in lines}
    assert len(lines) == 5
    device = ["NVIDIA", "H200", "x2"]
    assert rows["tood_af"][2:] == ["running", "3/12", "100/300", "81.2", "0:06:40", "–", *device, "2"]
    assert rows["atss_af"][:3] + rows["atss_af"][7:8] == ["atss_af", "0", "done", "40.1"]
    assert rows["tal"][2:3] + rows["tal"][7:9] == ["stale", "40.1", "(stale)"]
    # 12 epochs done in 1200 s and 12 in 400 / 2 * 3 = 600 s: 75 s an epoch for the 12 of `tal`; 400 s run on.
    assert lines[-1] == "tiny: 1 running, 1 stale, 1 done; 0:21:40 left"


def test_progress_as_json(plan, capsys):
    leave(plan, "tood_af", RUNNING)
    assert main(["progress", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {run["run"]: run["state"] for run in found["runs"]} == {
        "atss_af": "pending",
        "tood_af": "running",
        "tal": "pending",
    }
    assert found["sum"] == {"study": "tiny", "states": {"running": 1, "pending": 2}, "seconds_left": 1600.0}


def test_a_training_that_has_just_begun_knows_nothing_yet(plan, capsys):
    unknown = dict.fromkeys(("epoch", "epochs", "iteration", "images_per_second", "seconds_left", "reason"))
    leave(plan, "tood_af", {**RUNNING, **unknown, "attempt": 1})
    main(["progress"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[3].split()[1:] == ["0", "running", *"–––––", "NVIDIA", "H200", "x2", "1"]
    assert lines[-1] == "tiny: 1 running, 2 pending; time left unknown"


def test_time_left_is_unknown_before_anything_ran(plan, capsys):
    main(["progress"])
    assert capsys.readouterr().out.splitlines()[-1] == "tiny: 3 pending; time left unknown"


def test_watching_a_log_prints_changes_until_all_is_settled(plan, capsys, monkeypatch):
    for run in ("atss_af", "tal"):
        leave(plan, run, {"state": "done", "seconds": 60.0}, AP)
    leave(plan, "tood_af", RUNNING)
    looks = iter([lambda: leave(plan, "tood_af", {**RUNNING, "iteration": 200}), None])
    ends = iter([lambda: leave(plan, "tood_af", {"state": "done"}), lambda: leave(plan, "tood_af", None, AP)])

    def sleep(seconds):
        (next(looks, None) or next(ends))()

    monkeypatch.setattr(overview, "time", SimpleNamespace(sleep=sleep))  # not that of other threads
    main(["progress", "--watch"])
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if line.startswith("atss_af")]) == 1
    tood = [line.split()[2:5] for line in lines if line.startswith("tood_af")]
    assert tood == [["running", "3/12", "100/300"], ["running", "3/12", "200/300"], *[["done", "–", "–"]] * 2]
    assert lines[-1] == "tiny: 3 done; 0:00:00 left"


def test_ctrl_c_ends_watching_quietly(plan, capsys, monkeypatch):
    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(overview, "time", SimpleNamespace(sleep=interrupt))
    assert main(["progress", "--watch"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("no_color", ["", "1"])
def test_a_terminal_gets_a_table_with_what_moves_first(plan, capsys, monkeypatch, no_color):
    leave(plan, "tood_af", RUNNING)
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setattr(overview, "Console", lambda: Console(force_terminal=True, width=120))
    main(["progress"])
    printed = capsys.readouterr().out
    assert ("┃" in printed) == (not no_color)
    if not no_color:
        assert printed.index("tood_af") < printed.index("atss_af")
        assert "NVIDIA H200 x2" in printed


def test_show_a_run_on_a_screen(plan, capsys):
    leave(plan, "tood_af", {"state": "done", "device": "cpu", "seconds": 401.0}, AP, code="another")
    assert main(["show", "tood_af"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 15
    assert lines[0].startswith("tood_af: TOOD")
    assert lines[1] == "study tiny (scale smoke), the last that was called"
    columns = dict(zip(lines[3].split(), lines[4].split(), strict=True))
    assert columns.items() >= {"state": "stale", "AP": "40.1", "AP75": "43.0", "time": "6:41"}.items()
    printed = "\n".join(lines)
    for part in (
        "Table 3: ",
        "other code than now",
        "work/tiny/runs/tood_af/seed0",
        "tood show tood_af --full",
    ):
        assert part in printed


def test_show_several_seeds_with_their_mean(workspace, monkeypatch, capsys):
    monkeypatch.chdir(workspace.path)
    plan = Plan(OPTIONS | {"seeds": "0,1,2"})
    save_study(plan)
    write_json(workspace.path / "work/tiny/manifest.json", MANIFEST)
    for seed, ap in ((0, 40.0), (1, 42.0)):
        folder = StudyPaths("tiny").run("tood_af", seed)
        write_json(folder.state, {"state": "done"})
        write_json(folder.ap, {"AP": ap, "digests": {}})
    assert main(["show", "tood_af"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[4:8]] == ["0", "1", "2", "mean"]
    assert "41.0 ± 1.4" in lines[7]
    (trains,) = (line for line in lines if line.startswith("trained by"))
    assert "seeds=2" in trains.split()


def test_the_studies_that_have_a_run_are_named(plan, capsys):
    leave(plan, "tood_af", {"state": "done"})
    for path in ("work/other/runs/tood_af", "results/sweeps/mini_lr/runs/tood_af", "work/no/runs/tal"):
        os.makedirs(path)
    save_study(Plan({"name": "last", "scale": "mini"}))
    os.utime(StudyPaths("last").options, (NOW + 9, NOW + 9))
    main(["show", "tood_af"])
    header = "study last (scale mini), the last that was called; tood_af is also in "
    assert capsys.readouterr().out.splitlines()[1] == f"{header}other, sweeps/mini_lr, tiny (--name)"
    with pytest.raises(ExperimentError, match=r"model.pth is not there; this trains it:\nsnakemake"):
        trained_weights("tood_af", "tiny", None)
    manifest, model = StudyPaths("tiny").manifest, StudyPaths("tiny").run("tood_af", 0).model
    write_json(model, {})
    manifest.unlink()
    with pytest.raises(ExperimentError, match=rf"this checks the data.*\nsnakemake {manifest} --") as error:
        trained_weights("tood_af", "tiny", None)
    assert "fresh" not in str(error.value)
    write_json(manifest, {})
    with pytest.raises(ExperimentError, match=r"there are weights of it in tiny: --name tiny"):
        trained_weights("tood_af", None, 0)
    StudyPaths("sweeps/mini_lr").record("tood_af", 0).with_suffix(".pth").touch()
    with pytest.raises(ExperimentError, match=r"there are weights of it in sweeps/mini_lr, tiny: "):
        trained_weights("tood_af", None, 0)
    assert trained_weights("tood_af", "tiny", None)[1] == 0


def test_show_everything_of_a_run(plan, capsys):
    leave(plan, "tood_af", {"state": "done", "device": "cpu"}, AP, code="another")
    assert main(["show", "tood_af", "--full"]) == 0
    printed = capsys.readouterr().out
    for part in (
        "TOOD",
        "Table 3: ",
        "tiny",
        "stale",
        "other code than now",
        "40.14",
        "device",
        "seed0/ap.json",
    ):
        assert part in printed
    assert main(["show", "tood_af", "--json"]) == 0

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    (found,) = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert found["ap.json"]["AP"] == 40.14
    assert found["ap.json"]["stale"] == ["code"]
    assert found["provenance"]["digests"]["code"] == "another"


def test_a_run_never_trained_says_what_trains_it(plan, capsys):
    main(["show", "tood_af", "--seed", "7"])
    printed = capsys.readouterr().out
    assert "pending" in printed
    line = next(line for line in printed.splitlines() if "snakemake" in line)
    options = dict(part.split("=") for part in line.split("--config ")[1].split())
    (run,) = (again := Plan(options)).runs
    assert (run.id, again.seeds, again.name) == ("tood_af", (7,), "tiny")
    assert again.settings("tood_af") == plan.settings("tood_af")


def test_show_an_unknown_run_or_study(plan, capsys):
    assert main(["show", "tod_af"]) == 2
    assert "did you mean tood_af" in capsys.readouterr().err
    assert main(["show", "tood_af", "--name", "tinny"]) == 2
    assert "did you mean tiny" in capsys.readouterr().err


def test_looking_imports_nothing_heavy(plan, workspace, poison):
    for arguments in (["show", "tood_af"], ["progress"]):
        outcome = workspace.run("tood", *arguments, PYTHONPATH=str(poison))
        assert outcome.returncode == 0, outcome.stdout
    assert not (poison / "imported").exists()


# What is rendered


def test_tables_show_what_is_there_and_why_the_rest_is_not(plan, workspace):
    leave(plan, "tood_af", {"state": "done"}, AP, settings="another")
    leave(plan, "atss_af", {"state": "diverged", "reason": "the loss is nan at iteration 30"})
    leave(plan, "tal", {"state": "oom", "reason": "out of memory; set micro_batch"})
    options = plan.study.model_dump_json(exclude_none=True)
    call = ("workflow/step.py", "tables", "--study", options, "--complexity", "none.csv")
    outcome = workspace.run("python", *call)
    assert outcome.returncode == 0, outcome.stdout
    table = pd.read_csv("results/tiny/tables/table3.csv").set_index("run")
    assert table["status"].to_dict() == {
        "atss_af": "diverged",
        "tood_af": "stale",
        "atss_ab": "pending",
        "tood_ab": "pending",
    }
    assert table.index[table["AP_stale"]].to_list() == ["tood_af"]
    for suffix in ("md", "tex"):
        text = (workspace.path / f"results/tiny/tables/table3.{suffix}").read_text()
        assert "40.1 (stale)" in text
        assert "the loss is nan at iteration 30" in text
        assert "out of memory" not in text  # not a run of this table
    assert (
        r"out of memory; set micro\_batch" in (workspace.path / "results/tiny/tables/table2.md").read_text()
    )
    assert pd.read_csv("results/tiny/metrics.csv")["stale"].to_list() == [True] * len(AP)


def test_a_failed_call_renders_tables_and_report_with_every_state(workspace, monkeypatch, tmp_path):
    monkeypatch.chdir(workspace.path)
    options = ["scale=paper", "name=x", "weights=random", "device=cpu", f"data_root={tmp_path / 'nowhere'}"]
    runs = ["tood_af", "atss_af", "tood_ab", "atss_ab"]
    plan = Plan(dict(option.split("=") for option in options))
    reports = ({"state": "running", "updated": 0.0}, {"state": "diverged", "reason": "the loss is inf"})
    for run, report in zip(runs, (*reports, {"state": "interrupted", "reason": "SIGTERM"}), strict=False):
        write_json(StudyPaths(plan.name).run(run, 0).state, report)
    write_json(StudyPaths(plan.name).run("tood_ab", 0).ap, {**AP, "digests": {}})
    complexity = workspace.path / "results/paper/complexity.csv"  # counted once for all studies
    complexity.parent.mkdir(parents=True)
    complexity.write_text("run,head_params_m,params_m,head_gflops,gflops\natss_af,1,2,3,4\n")
    earlier = workspace.path / "results/x/figures/figure1.png"  # drawn from runs that are not done now
    earlier.parent.mkdir(parents=True)
    earlier.write_bytes(b"an earlier figure")
    for run in ("tood_af", "atss_af"):
        StudyPaths(plan.name).run(run, 0).model.touch()
    outcome = workspace.run("snakemake", "--cores", "1", "--config", *options, f"runs={','.join(runs)}")
    assert outcome.returncode != 0
    assert "results/x/report.html and the tables show" in outcome.stdout, outcome.stdout
    states = pd.read_csv("results/x/tables/table3.csv").set_index("run")["status"].to_dict()
    assert states == {
        "tood_af": "failed",
        "atss_af": "diverged",
        "tood_ab": "interrupted",
        "atss_ab": "pending",
    }
    page = (workspace.path / "results/x/report.html").read_text()
    for part in ("no heartbeat since", "the loss is inf", "SIGTERM", "40.1 (stale)", "figure1 is not shown"):
        assert part in page
    assert "<img" not in page
