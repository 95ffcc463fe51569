"""What a rehearsal says of a study: arithmetic by hand, and all runs in turn, whatever becomes of each."""

import csv
import json
import sys
from pathlib import Path

import pytest

from tood.commands.estimate import estimate
from tood.data.synthetic import DrawingSpec, generate
from tood.ledger.rehearsal import (
    Attempt,
    Rehearsed,
    all_rehearsed,
    describe,
    fastest,
    file_of,
    hours_of,
    read_rehearsed,
    row_of,
    write_table,
)
from tood.ledger.study_jobs import training_job
from tood.runtime.failures import KILLED
from tood.runtime.files import write_json
from tood.study.paths import StudyPaths
from tood.study.plan import Plan
from tood.workflow.rehearsing import rehearsal_job, rehearse_all

GPU = "Some GPU"


@pytest.fixture
def empty(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def measured(run: str = "tood_af", **changes) -> Rehearsed:
    """A run that trains 10 images/s of 3,600 with four at a time, and loads 8 images/s in a process."""
    content = dict(
        run=run,
        device=GPU,
        on_gpu=True,
        memory_mb=12 * 1024,
        batch_size=16,
        trained_images=3600,
        attempts=[
            Attempt(micro_batch=2, peak_memory_mb=2048, images_per_second=8),
            Attempt(micro_batch=4, peak_memory_mb=4096, images_per_second=10),
            Attempt(micro_batch=8, failed="CUDA out of memory"),
        ],
        micro_batch=4,
        iterations=20,
        images=288,
        seconds=28.8,
        images_per_second=10,
        loaded_per_second=8,
        evaluated_images=4,
        evaluation_seconds=3,
        weights="imagenet",
    )
    return Rehearsed(**content | changes)


# Arithmetic


def test_hours_by_hand():
    assert hours_of(measured(), 12) == pytest.approx(3600 * 12 / 10 / 3600)  # 1.2
    assert hours_of(measured(), 12, iterations=90) == pytest.approx(90 * 16 / 10 / 3600)
    assert hours_of(measured(), 12, iterations=10**6) == pytest.approx(1.2)
    assert hours_of(measured(images_per_second=None), 12) is None


def test_a_row_is_of_the_runs_own_schedule_and_of_all_its_seeds():
    plan = Plan({"scale": "paper", "seeds": "0,1,2"})
    row = row_of(plan, measured("tood_r101"))  # 24 epochs
    assert (row.epochs, row.seeds) == (24, 3)
    assert (row.hours, row.device_hours) == (pytest.approx(2.4), pytest.approx(7.2))
    assert row.workers == 2  # 1.25 x 10 / 8, rounded up
    assert row.memory == "2: 2.0, 4: 4.0, 8: out"
    assert row_of(plan, measured(failed="why")).hours is None


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        ([5, 8, 10, None], 4),
        ([5, 9.8, 10, None], 2),  # as fast, with less memory
        ([5, 8, 7, 6], 2),
        ([None, None], None),
    ],
)
def test_the_number_of_images_at_a_time_that_is_taken(rates, expected):
    attempts = [
        Attempt(micro_batch=2**power, images_per_second=rate, failed="" if rate else "out of memory")
        for power, rate in enumerate(rates)
    ]
    found = fastest(attempts)
    assert (found and found.micro_batch) == expected


def test_the_page_says_what_fits_what_fails_and_what_to_type(tmp_path):
    plan = Plan({"scale": "paper", "data_root": "coco", "runs": "tood_af,atss_af,paa,gfl_r101"})
    rows = [
        row_of(plan, one)
        for one in (
            measured(),
            measured("atss_af", micro_batch=2, weights="random"),
            measured("paa", failed="no kernel image", images_per_second=None, micro_batch=None, attempts=[]),
            measured("gfl_r101"),
        )
    ]
    text = describe(plan, rows)
    lines = {line.split()[0]: line for line in text.splitlines() if line.strip()}
    assert lines["tood_af"].endswith("micro_batch=8 does not fit")
    assert "2: 2.0, 4: 4.0, 8: out" in lines["tood_af"]
    assert "All 3: 4.8 hours" in text  # 1.2 + 1.2 + 2.4 of 24 epochs
    assert f"On {GPU}" in text
    assert "of which there are 12.0 GiB" in text
    assert "random weights" in text
    assert "1 of 4 runs failed:\n  paa: no kernel image" in text
    call = "snakemake --cores all --resources gpu=1 --config scale=paper data_root=coco"
    assert f"{call} runs=tood_af,gfl_r101 micro_batch=4" in text
    assert f"{call} runs=atss_af micro_batch=2" in text
    write_table(tmp_path / "table.csv", rows)
    found = list(csv.DictReader((tmp_path / "table.csv").open()))
    assert [row["run"] for row in found] == ["tood_af", "atss_af", "paa", "gfl_r101"]
    assert found[0]["peak_memory_mb"] == "2:2048 4:4096 8:out"
    assert [row["failed"] for row in found] == ["", "", "no kernel image", ""]
    assert float(found[3]["all_hours"]) == pytest.approx(2.4)


# tood plan


def rehearsed(scale: str = "paper", **changes) -> None:
    one = measured(**changes)
    write_json(file_of(StudyPaths(scale), one.run), one.model_dump())


def test_planning_rests_on_a_rehearsal(empty):
    rehearsed()
    found = estimate("paper", "3")
    assert (found["device"], found["measured"]) == (GPU, ["tood_af"])
    hours = 12 * 118_287 / 10 / 3600  # of COCO, whatever the rehearsal's images were
    assert found["study"]["gpu_hours"] == pytest.approx((4 * hours, 4 * hours))
    assert found["basis"][0] == (
        "Rehearsed: a few iterations of 1 runs on Some GPU, from work/paper/rehearsal."
    )


def test_a_training_that_finished_counts_more(empty):
    rehearsed()
    rehearsed(run="tood_ab")
    content = {"run": "tood_af", "settings": {}, "seconds": 7200, "hardware": {"gpus": 1, "gpu_names": [GPU]}}
    write_json(StudyPaths("paper").run("tood_af", 0).provenance, content)
    found = estimate("paper", "3")
    assert sorted(found["measured"]) == ["tood_ab", "tood_af"]
    assert found["basis"][0].startswith(f"Measured: trainings of 1 runs that finished on {GPU}")
    assert "Rehearsed: a few iterations of 2 runs" in found["basis"][0]
    own, others = 2.0, 12 * 118_287 / 10 / 3600
    low, high = found["study"]["gpu_hours"]  # both are known, the other two are between them
    assert low == pytest.approx(own + others + 2 * own)
    assert high == pytest.approx(own + others + 2 * others)


def test_a_rehearsal_that_failed_or_was_of_another_gpu_does_not_count(empty):
    rehearsed(failed="out of memory")
    assert estimate("paper", "3")["measured"] == []
    rehearsed()
    assert estimate("paper", "3", "A100")["measured"] == []
    assert estimate("paper", "3", "some gpu")["measured"] == ["tood_af"]


# One run after another

PROGRAM = """
import json, os, signal, sys
words = dict(zip(sys.argv[1::2], sys.argv[2::2]))
run = json.loads(words["--job"])["training"]["settings"]["run"]["id"]
with open("called.txt", "a") as file:
    print(run, file=file)
known = {"run": run, "digest": words["--digest"], "images_per_second": 5.0, "trained_images": 96}
json.dump(known, open(words["--output"], "w"))
if run == "paa" and not os.path.exists("mended"):
    os.kill(os.getpid(), signal.SIGKILL)
json.dump(known | {"evaluation_seconds": 1.0}, open(words["--output"], "w"))
"""


@pytest.fixture
def study(empty):
    generate(empty / "data", DrawingSpec(seed=0, train_images=6, val_images=3, image_size=(64, 64)))
    (empty / "program.py").write_text(PROGRAM)

    def call(**options) -> list:
        plan = Plan({"runs": "tood_af,paa,atss_af", "data_root": "data", "name": "own", **options})
        program = [sys.executable, str(empty / "program.py")]
        return rehearse_all(plan, 1, program, analysed=[], say=lambda line: None)

    return call


def called() -> list[str]:
    return Path("called.txt").read_text().split()


def test_a_run_that_is_killed_stops_no_other(study):
    rows = study()
    assert called() == ["tood_af", "paa", "atss_af"]
    assert [bool(row.measured.failed) for row in rows] == [False, True, False]
    assert rows[1].measured.failed.startswith(KILLED)
    assert read_rehearsed(file_of(StudyPaths("own"), "paa")) == rows[1].measured
    assert [one.run for one in all_rehearsed(StudyPaths("own"))] == ["atss_af", "tood_af"]


def test_only_what_failed_or_has_changed_is_measured_again(study):
    study()
    Path("mended").touch()
    Path("called.txt").unlink()
    rows = study()
    assert called() == ["paa"]
    assert not any(row.measured.failed for row in rows)
    study(batch_size=4)
    assert called() == ["paa", "tood_af", "paa", "atss_af"]


def test_a_rehearsal_trains_on_its_own_sample_and_writes_into_its_own_folder(empty):
    plan = Plan({"scale": "paper", "data_root": "coco"})
    job = rehearsal_job(plan, "tood_af", True, 4)
    folder = StudyPaths("paper").rehearsal
    assert job.training.manifest == job.measuring.manifest == folder / "manifest.json"
    assert job.measuring.model.is_relative_to(folder)
    assert job.training.settings["splits"]["train"]["annotations"] == "annotations/typical.json"
    assert job.training.weights is None  # there is no file of them
    rest = {key: value for key, value in job.training.settings.items() if key != "splits"}
    own = training_job(plan, "tood_af", 0)
    assert rest == {key: value for key, value in own.settings.items() if key != "splits"}
    own.weights.parent.mkdir()
    own.weights.touch()
    assert rehearsal_job(plan, "tood_af", True, 4).training.weights == own.weights


def test_what_was_written_is_what_is_read(empty):
    rehearsed()
    text = file_of(StudyPaths("paper"), "tood_af").read_text()
    assert read_rehearsed(file_of(StudyPaths("paper"), "tood_af")) == measured()
    assert json.loads(text)["device"] == GPU
