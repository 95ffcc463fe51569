"""Jobs as data: a script gets what a rule passes on, and a job holds only what decides its result."""

import json

import pytest
from pydantic import ValidationError

from tood.ledger.code_digest import training_code
from tood.ledger.provenance import evaluation_digest
from tood.ledger.study_jobs import analysis_job, figure_job, measuring_job, training_job
from tood.study.jobs import Computing, Execution, Figure1Job, MeasuringJob, Resources, TrainingJob
from tood.study.paths import ALIGNMENT, AP, StudyPaths
from tood.study.plan import Plan

PAPER = Plan({"scale": "paper", "runs": "tood_af,atss_af", "val_images": 6, "name": "x"})


@pytest.mark.parametrize(
    "described",
    [
        training_job(PAPER, "tood_af", 3),
        measuring_job(PAPER, "atss_af", 0),
        analysis_job(PAPER, "atss_af", 0),
        Figure1Job(detectors={"TOOD": figure_job(PAPER, "tood_af", 1)}),
        Execution(device="cuda", threads=3, micro_batch=2, wait=False, checkpoint_minutes=0.5),
    ],
    ids=lambda described: type(described).__name__,
)
def test_an_argument_is_read_as_it_was_written(described):
    assert type(described).model_validate_json(described.argument()) == described


def test_an_argument_leaves_defaults_out_so_that_a_new_option_changes_no_earlier_job():
    settings = PAPER.settings("tood_af")
    job = TrainingJob(settings=settings, seed=1, manifest="m.json")
    assert json.loads(job.argument()) == {
        "settings": settings,
        "seed": 1,
        "manifest": "m.json",
    }
    assert Execution().argument() == "{}"


def test_unknown_options_and_impossible_values_are_refused():
    for wrong in ({"treads": 1}, {"threads": 0}, {"workers": -1}, {"device": "gpu"}, {"micro_batch": 0}):
        with pytest.raises(ValidationError):
            Execution(**wrong)


def test_a_training_job_is_what_decides_the_result():
    job = training_job(PAPER, "tood_af", 3)
    run = PAPER.all_runs["tood_af"]
    assert (job.run, job.seed, job.settings) == ("tood_af", 3, PAPER.settings("tood_af"))
    assert (job.code, job.weights.as_posix()) == (
        training_code(run.config, run.options),
        "weights/resnet50.pth",
    )
    assert job.manifest == StudyPaths("x").manifest
    assert training_job(Plan({}), "tood_af", 0).weights is None


CHANGES = [{"device": "cpu"}, {"device": "cuda", "gpus": 4}, {"micro_batch": 1}, {"compile": True}]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_how_it_is_computed_is_no_part_of_a_job(change):
    plan = Plan({"scale": "paper", **change})
    assert training_job(plan, "tood_af", 0) == training_job(Plan({"scale": "paper"}), "tood_af", 0)
    other = Plan({"scale": "paper"})
    for job_of in (measuring_job, analysis_job, figure_job):
        assert job_of(plan, "tood_af", 0) == job_of(other, "tood_af", 0)


def test_a_measuring_job_is_of_one_trained_model():
    job = analysis_job(PAPER, "tood_af", 1)
    assert job.model == StudyPaths("x").run("tood_af", 1).model
    assert (job.images, job.batch_size) == (6, 4)
    assert (job.evaluation, job.analysis) == (evaluation_digest(AP, 6), evaluation_digest(ALIGNMENT, 6))
    smoke = Plan({})
    batched, figure = measuring_job(smoke, "tood_af", 0), figure_job(smoke, "tood_af", 0)
    assert batched.batch_size == smoke.scale.test_batch_size > 1
    assert (figure.batch_size, figure.evaluation) == (1, "")
    assert type(batched) is type(figure) is MeasuringJob


def test_an_execution_is_as_the_scale_and_the_call_say():
    plan = Plan({"scale": "paper", "device": "cuda", "micro_batch": 4})
    training = plan.training_execution("tood_af", threads=2)  # of a machine with two cores
    assert (training.device, training.threads, training.workers, training.micro_batch) == ("cuda", 2, 4, 4)
    measuring = plan.measuring_execution(threads=3)
    assert (measuring.threads, measuring.workers, measuring.micro_batch) == (3, 4, None)


def test_every_option_of_computing_can_stand_in_a_scale_and_reaches_the_job():
    values = {"threads": 5, "workers": 6, "micro_batch": 7, "compile": True}
    assert set(values) == set(Computing.model_fields)
    execution = Execution.of(Resources(**values), "cpu", threads=5)
    assert execution.model_dump(include=set(values)) == values
