"""What the workflow decides without Snakemake: requests of jobs, launchers, figures, and when it stops."""

import json
import os
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.records import finish

from tood.data.synthetic import DrawingSpec, generate
from tood.data.validation import check_dataset
from tood.ledger.plans import load_study, save_study
from tood.ledger.standing import analysed_runs
from tood.ledger.status import Status
from tood.ledger.study_jobs import submission_job
from tood.report import figures as figure_sources
from tood.report.everything import render_what_is_there
from tood.report.figures import VIEWS, figure1_job, figures, up_to_date, without_weights
from tood.runtime.failures import Held, State
from tood.runtime.files import write_json
from tood.study.declarations import ExperimentError, load_tables
from tood.study.jobs import Resources
from tood.study.paths import StudyPaths
from tood.study.plan import Plan
from tood.workflow import call, steps
from tood.workflow import stages as workflow

TABLES = load_tables()
PAIR = Plan({"runs": "atss_af,tood_af", "seeds": "4,5"})


@pytest.fixture
def empty(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


# What a study has


def test_figures_are_those_that_the_runs_suffice_for(empty):
    found = figures(PAIR, TABLES)
    assert list(found) == ["claims", "figure1", "figure4", *VIEWS, "positives"]
    assert found["claims"].trainings == {run: [(run, 4), (run, 5)] for run in ("tood_af", "atss_af")}
    pair = {"ATSS": [("atss_af", 4)], "TOOD": [("tood_af", 4)]}
    assert found["figure1"] == found["figure4"] == (pair, "model.pth", True)
    assert found["positives"] == ({"ATSS": [("atss_af", 4), ("atss_af", 5)]}, "", False)
    cells = {
        "Parallel head + ATSS": [("atss_af", 4), ("atss_af", 5)],
        "T-head + TAL": [("tood_af", 4), ("tood_af", 5)],
    }
    assert all(found[view] == (cells, "model.pth", False) for view in VIEWS)
    every = list(figures(Plan({}), TABLES))
    assert every == ["claims", "figure1", "figure4", *VIEWS, "positives", "sweep_m", "alpha_beta"]
    assert figures(Plan({"runs": "fcos_imprv"}), TABLES) == {}


def test_a_call_of_some_trainings_leaves_the_figures_of_more_as_they_are(empty):
    """Tables show what else has a record. So do figures from records, and others that are there."""
    plan = Plan({"scale": "mini", "runs": "atss_af,tood_af,fcos", "seeds": "4"})
    for training in plan.trainings:
        finish(plan, *training)
    part = Plan({"scale": "mini", "runs": "atss_af", "seeds": "4,5"})
    new = [("atss_af", 4), ("atss_af", 5)]
    found = figures(part, TABLES)
    assert sorted(found["positives"].all) == [*new, ("fcos", 4)]
    assert found["figure1"].trainings == {"ATSS": [("atss_af", 4)]}  # there is no picture yet
    assert found["distances"].all == new
    assert without_weights(part, found, {}) == {}
    for name in ("figure1", *VIEWS[1:]):  # figure4 and the first of the views were deleted
        picture = StudyPaths("mini").figures / f"{name}.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.touch()
    found = figures(part, TABLES)
    assert found["figure1"].trainings == {"ATSS": [("atss_af", 4)], "TOOD": [("tood_af", 4)]}
    assert found["distances"].all == [*new, ("tood_af", 4)]
    kept = without_weights(part, found, {})
    assert set(kept) == {"figure1", "figure4", *VIEWS}
    assert set(kept.values()) == {"shows trainings that this call does not name: tood_af with seed 4"}
    assert without_weights(plan, figures(plan, TABLES), {}) == {}
    whole = figures(Plan({"scale": "mini"}), TABLES)  # draws its own, whatever else is there
    assert whole["figure1"].trainings == {"ATSS": [("atss_af", 0)], "TOOD": [("tood_af", 0)]}
    other = figures(Plan({"scale": "mini", "runs": "tal_18e", "seeds": "4"}), TABLES)
    assert set(other) == {*found}  # on the page beside what is new


def test_figures_do_not_show_other_trainings_whose_records_are_stale(empty):
    for run, state, change in (("fcos", "done", {"code": "old"}), ("tood_af", "diverged", {})):
        finish(Plan({"scale": "mini"}), run, 4, state=state, **change)
    part = Plan({"scale": "mini", "runs": "atss_af", "seeds": "4"})
    assert {one for sources in figures(part, TABLES).values() for one in sources.all} == {("atss_af", 4)}


def test_figure_1_is_drawn_where_other_records_have_no_seed_of_the_calls(empty):
    finish(Plan({"scale": "mini"}), "atss_af", 0)
    found = figures(Plan({"scale": "mini", "runs": "tood_af", "seeds": "7"}), TABLES)
    assert found["figure1"].trainings == {"TOOD": [("tood_af", 7)]}


def test_a_figure_of_a_training_that_diverged(empty):
    plan = Plan({"scale": "mini", "runs": "atss_af,tood_af", "seeds": "4"})
    finish(plan, "atss_af", 4)
    record = finish(plan, "tood_af", 4, state="diverged")
    shutil.rmtree("work")
    (why,) = set(without_weights(plan, figures(plan, TABLES), {("tood_af", 4): record}).values())
    assert why == "needs trained weights, and the training of tood_af with seed 4 diverged"


def test_the_sweeps_want_every_run_of_their_tables(empty):
    swept = {row.run for name in ("table4", "table_m") for row in TABLES[name].rows}
    whole = figures(Plan({"runs": sorted(swept)}), TABLES)
    assert set(whole["sweep_m"].trainings) == set(whole["alpha_beta"].trainings) == swept
    for missing in swept:
        assert "sweep_m" not in figures(Plan({"runs": sorted(swept - {missing})}), TABLES)


def test_figure_1_shows_the_baseline_first_with_one_seed(empty):
    job = figure1_job(PAIR, figures(PAIR, TABLES)["figure1"], {})
    assert list(job.detectors) == ["ATSS", "TOOD"]
    paths = StudyPaths(PAIR.name)
    assert [d.model for d in job.detectors.values()] == [
        paths.run(r, 4).model for r in ("atss_af", "tood_af")
    ]


def test_analysed_runs_are_those_of_table_6():
    assert set(analysed_runs(PAIR, TABLES)) == {"atss_af", "tood_af"}
    assert analysed_runs(Plan({"runs": "paa"}), TABLES) == []


def test_the_summary_counts_trainings_and_epochs():
    said = workflow.describe_study(PAIR, {}, [])
    assert said == ("smoke: 2 runs x seeds [4, 5] = 4 trainings, 24 epochs.")
    said = workflow.describe_study(Plan({"scale": "mini"}), {}, [])
    assert said.startswith("mini: 38 runs x 1 to 10 seeds = 169 ")


def test_a_dry_run_says_what_is_there_and_what_the_rest_takes(empty):
    said = call.describe_what_is_left(PAIR, []).splitlines()
    assert said == [
        "Trainings that no record replaces: 4 pending (`tood progress --name smoke` lists them).",
        "4 trainings to do; how long they take is known once one of them has finished here.",
    ]
    paths = StudyPaths("smoke")
    write_json(paths.run("tood_af", 4).state, {"state": "interrupted"})
    said = call.describe_what_is_left(PAIR, [("atss_af", 4), ("atss_af", 5)]).splitlines()
    assert said[0].startswith("Trainings that no record replaces: 1 interrupted, 1 pending (")
    assert said[1].startswith("2 trainings to do; ")
    assert call.describe_what_is_left(PAIR, PAIR.trainings) == "Nothing is to be trained."


def test_a_dry_run_says_that_the_dataset_is_not_there(empty):
    plan = Plan({"scale": "paper", "runs": "tood_af", "data_root": "nowhere"})
    *_, cost, data = call.describe_what_is_left(plan, []).splitlines()
    assert cost.startswith("1 training to do: ")
    assert data.startswith("The dataset nowhere is not there: add data_root=PATH if it is elsewhere")
    Path("nowhere").mkdir()
    assert call.describe_what_is_left(plan, []).splitlines()[-1] == cost


def test_a_record_declares_its_study(empty):
    plan = Plan({"name": "sweeps/mine", "runs": "tood_af"})
    save_study(plan)
    record, paths = finish(plan, "tood_af", 0), StudyPaths(plan.name)
    record.unlink()
    assert not paths.declaration.is_file()
    steps._keep(SimpleNamespace(manifest=paths.manifest), paths.run("tood_af", 0).folder, record)
    assert record.is_file()
    assert json.loads(paths.declaration.read_text()) == {
        "scale": "smoke",
        "name": "sweeps/mine",
        "runs": ["tood_af"],
    }


def test_a_success_says_what_was_done_and_where_it_is(empty):
    done = {"train": 2, "evaluate": 1, "evaluate_and_analyse": 1, "tables": 1, "report": 1, "all": 1}
    first, *places = call.describe_success(PAIR, done, 401).splitlines()
    assert first == "smoke: done in 6:41: 2 trained, 2 evaluated, 2 other jobs."
    assert [place.split()[-1] for place in places[:3]] == [
        f"results/smoke/{name}" for name in ("report.html", "tables", "figures")
    ]
    assert "weights" not in "".join(places)
    for path in (
        StudyPaths("smoke").record("tal", 1).with_suffix(".pth"),
        StudyPaths("smoke").run("tal", 1).model,
    ):
        path.parent.mkdir(parents=True)
        path.touch()
    found = re.findall("weights +(.*)", call.describe_success(PAIR, done, 401))
    assert found == ["work/smoke/runs/RUN/seedK/model.pth", "results/smoke/runs/RUN/seedK.pth"]
    # Without a report nothing is said of places, where there may be older files.
    assert call.describe_success(PAIR, {"check_data": 1}, 3) == "smoke: done in 0:03: 1 other job."


# What jobs ask for


@pytest.mark.parametrize(("on_gpu", "gpus", "processes"), [(True, 6, 2), (False, 0, 1)])
def test_a_job_asks_for_what_its_wildcards_say(on_gpu, gpus, processes):
    """CPUs and memory for each process of a node, of which there is one on CPUs."""
    job = Resources(gpus=2, nodes=3, threads=4, mem_mb=500, runtime=7)
    asked = workflow.requests({"large": job, "small": Resources()}.__getitem__, on_gpu)
    assert asked.get("gpu_model") == (None if on_gpu else "")
    asked.pop("gpu_model", None)
    found = {key: [value("large", attempt) for attempt in (1, 2, 3)] for key, value in asked.items()}
    assert found == {
        "gpu": [gpus] * 3,
        "nodes": [3] * 3,
        "cpus_per_task": [4 * processes] * 3,
        "mem_mb": [500 * processes, 1000 * processes, 1000 * processes],
        "runtime": [7] * 3,
    }
    assert asked["runtime"]("small", 1) == Resources().runtime


def test_one_process_needs_no_launcher():
    for resources, on_gpu in ((Resources(), True), (Resources(gpus=4, nodes=2), False)):
        assert workflow.launcher(resources, on_gpu) == workflow.PYTHON


def test_several_processes_are_launched_on_each_node():
    one, two = (workflow.launcher(Resources(gpus=4, nodes=nodes), on_gpu=True) for nodes in (1, 2))
    assert one.startswith("python -m tood.runtime.launch --nproc-per-node 4 --signals-to-handle ")
    assert "SIGUSR1" in one.split()[6].split(",")
    assert one.endswith(" --standalone")
    assert "--standalone" not in two
    assert "--nnodes 2 --rdzv-backend c10d --rdzv-id $SLURM_JOB_ID --rdzv-endpoint $(hostname):" in two


# Before and after


def test_a_file_in_the_place_of_a_folder_is_refused(empty):
    (empty / "results").write_text("no folder")
    with pytest.raises(ExperimentError, match="results is not a folder"):
        call.require_folders(PAIR)
    (empty / "results").unlink()
    call.require_folders(PAIR)
    assert list(empty.iterdir()) == []


def test_a_name_belongs_to_one_scale(empty):
    named = Plan({"name": "mine", "runs": "tood_af"})
    call.require_scale(named)
    call.begin(named, preload=False).close()
    call.require_scale(Plan({"name": "mine", "runs": "atss_af"}))
    with pytest.raises(ExperimentError, match=r"scale=mini: the study 'mine' was called with scale=smoke; "):
        call.require_scale(Plan({"name": "mine", "scale": "mini"}))


def test_a_study_begins_once_and_leaves_word_of_itself(empty):
    lock = call.begin(PAIR, preload=False)
    assert load_study("smoke").study == PAIR.study
    with pytest.raises(Held, match=f"process {os.getpid()} on .* works on this study"):
        call.begin(PAIR, preload=False)
    lock.close()
    call.begin(PAIR, preload=False).close()


def test_data_that_changed_after_its_check_is_refused(empty):
    root, manifest = PAIR.data_root, StudyPaths("smoke").manifest
    generate(root, DrawingSpec(seed=0, train_images=2, val_images=2, image_size=(48, 32)))
    checked = check_dataset(root, PAIR.splits["train"], PAIR.splits["val"])
    write_json(manifest, checked | {"root": str(root)})
    call.begin(PAIR, preload=False).close()
    changed = root / PAIR.splits["val"].images / "000001000001.png"
    changed.touch()
    with pytest.raises(
        ExperimentError, match=rf"{changed} changed after .* remove work/smoke/manifest\.json"
    ):
        call.begin(PAIR, preload=False)
    # Data of another place are checked anew, and those that were checked may be gone.
    write_json(manifest, checked | {"root": "gone"})
    call.begin(Plan({"runs": "atss_af,tood_af", "seeds": "4,5"}), preload=False).close()


def test_weights_of_the_future_stop_before_any_job(empty):
    """Snakemake deletes an output that is older than its input, here after the whole training."""
    plan = Plan({"scale": "paper", "runs": "tood_af", "data_root": "coco"})
    path = plan.initial_weights("tood_af")
    path.parent.mkdir()
    path.touch()
    later = path.stat().st_mtime + 3600
    os.utime(path, (later, later))
    with pytest.raises(
        ExperimentError, match=r"weights/.*\.pth has a time that lies in the future; `touch wei"
    ):
        call.begin(plan, preload=False)
    path.touch()
    call.begin(Plan({"scale": "paper", "name": "p", "runs": "tood_af"}), preload=False).close()


def test_a_gpu_is_required_only_where_the_study_wants_one(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    call.require_device("auto")
    call.require_device("cpu")
    with pytest.raises(ExperimentError, match="needs a GPU"):
        call.require_device("cuda")


def test_a_logger_without_its_package_stops_before_any_job(empty, monkeypatch):
    plan = Plan({"runs": "tood_af", "logger": "tensorboard"})
    assert plan.training_execution("tood_af", 1).logger == "tensorboard"
    monkeypatch.setattr(call, "find_spec", lambda name: None)
    with pytest.raises(ExperimentError, match="logger=tensorboard: the package tensorboard is not installed"):
        call.begin(plan, preload=False)
    assert not StudyPaths("smoke").options.exists()


def test_nothing_is_rendered_where_no_training_ever_started(empty):
    assert not render_what_is_there(PAIR, TABLES)
    assert list(empty.iterdir()) == []


def test_records_of_runs_that_the_call_does_not_name_are_rendered(empty):
    finish(Plan({"runs": "atss_af"}), "atss_af", 0)
    assert render_what_is_there(Plan({"runs": "tood_af"}), TABLES)
    assert "run-atss_af" in Path("results/smoke/report.html").read_text()


def test_what_is_there_is_rendered_with_the_figures_that_are_not(empty):
    write_json(StudyPaths("smoke").run("tood_af", 4).state, {"state": "failed", "reason": "for a test"})
    assert render_what_is_there(PAIR, TABLES)
    page = Path("results/smoke/report.html").read_text()
    assert page.count("<table") == 1  # of the trainings; no other table has a value
    assert (
        len(re.findall("<li>[^<]*: (?:none of its runs|no value yet)", page)) == len(TABLES) + 1
    )  # and the claims
    assert "failed: for a test" in page
    for name in ("figure1", "positives"):
        assert f"{name} is not shown" in page


def test_a_figure_is_up_to_date_while_its_runs_are_done_and_older(empty, monkeypatch):
    states = {"atss_af": "done", "tood_af": "done"}

    def read_status(plan, run, seed):
        folder = StudyPaths("smoke").run(run, seed).folder
        return Status(run=plan.all_runs[run], seed=seed, folder=folder, state=State(states[run]))

    monkeypatch.setattr(figure_sources, "read_status", read_status)
    sources, picture = figures(PAIR, TABLES)["figure1"], Path("figure1.png")

    def shown() -> bool:
        return up_to_date(picture, PAIR, sources)

    models = [StudyPaths("smoke").run(run, 4).model for run in states]
    for model in models:
        model.parent.mkdir(parents=True)
        model.touch()
        os.utime(model, (100, 100))
    assert not shown()  # there is no picture
    picture.touch()
    assert shown()
    states["tood_af"] = "stale"
    assert not shown()
    states["tood_af"] = "done"
    later = picture.stat().st_mtime + 10
    os.utime(models[0], (later, later))
    assert not shown()
    models[0].unlink()
    assert not shown()


def test_a_score_of_the_server_renders_the_tables_of_its_study_again(monkeypatch):
    before = {name: workflow.published(Plan({"name": name} if name else {})) for name in ("", "mine")}
    scores = {"smoke": {"tood_af": PAIR}}  # anything that can be dumped
    monkeypatch.setattr(
        workflow,
        "load_scores",
        lambda study, runs: {run: plan.study for run, plan in scores.get(study, {}).items()},
    )
    assert workflow.published(Plan({"name": "mine"})) == before["mine"]
    assert workflow.published(Plan({})) != before[""]


# Submissions to COCO's server


def test_submissions_are_of_the_runs_that_are_named_and_of_all_seeds(photographs):
    plan = Plan({"scale": "paper", "data_root": str(photographs), "runs": "tood_af,tal", "seeds": "0,3"})
    assert [str(path) for path in workflow.submissions(plan, TABLES)] == [
        f"work/paper/runs/{run}/seed{seed}/detections_test-dev2017_{run}_results.zip"
        for run in ("tood_af", "tal")
        for seed in (0, 3)
    ]


def test_a_submission_needs_weights_which_a_record_does_not_hold(photographs):
    plan = Plan({"scale": "paper", "data_root": str(photographs), "runs": "tood_af,tal", "seeds": "0,3"})
    with pytest.raises(ExperimentError, match=r"needs the weights of tal, seed 3, .* add fresh=true"):
        workflow.submissions(plan, TABLES, {("tal", 3)})


def test_submissions_are_of_table_5_where_no_run_is_named(photographs):
    plan = Plan({"scale": "paper", "data_root": str(photographs)})
    shown = [row.run for row in TABLES["table5"].rows]
    others = [run for run in plan.runs if run.id not in shown]
    plan.runs = list(plan.all_runs.values())
    found = [path.parts[3] for path in workflow.submissions(plan, TABLES)]
    assert found == [run.id for run in plan.runs if run.id in {row.run for row in TABLES["table5"].rows}]
    plan.runs = others
    with pytest.raises(ExperimentError, match=r"test_dev: no run of Table 5 .* with --config runs="):
        workflow.submissions(plan, TABLES)


def test_a_submission_has_all_test_images_and_decides_nothing_of_the_training():
    plan = Plan({"scale": "paper", "name": "x", "val_images": 5, "runs": "tood_af"})
    job = submission_job(plan, "tood_af", 0)
    assert job.images is None
    assert job.test == ("annotations/image_info_test-dev2017.json", "test2017")
    assert job.settings == plan.settings("tood_af")
    assert "test-dev" not in str(job.settings)
    assert job == type(job).model_validate_json(job.argument())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"test_dev: scale 'smoke' has no split of test images; use --config scale=paper, or add `test`"),
        (
            {"scale": "paper"},
            r"test_dev: data/coco/annotations/image_info_test-dev2017\.json is not there; COCO's",
        ),
    ],
)
def test_submissions_without_test_images(empty, options, message):
    with pytest.raises(ExperimentError, match=message):
        workflow.submissions(Plan(options), TABLES)
