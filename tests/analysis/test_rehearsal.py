"""The rehearsal of one run: what it measures is what happened, and memory that runs out is said."""

import json

import pytest
import torch

from tood.analysis import rehearsal
from tood.analysis.rehearsal import rehearse
from tood.data.sample import take_sample
from tood.data.synthetic import DrawingSpec, generate
from tood.ledger.rehearsal import Rehearsed, file_of, read_rehearsed
from tood.runtime.files import write_json
from tood.study.jobs import Execution
from tood.study.paths import StudyPaths
from tood.study.plan import Plan
from tood.workflow.rehearsing import rehearsal_job

NAME = "rehearsed"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    root = tmp_path_factory.mktemp("drawn")
    generate(root, DrawingSpec(seed=0, train_images=20, val_images=4, image_size=(64, 64)))
    return root


@pytest.fixture
def run(drawn, tmp_path, monkeypatch):
    """Rehearses a run at the scale `smoke`; on a CPU, as if it were a GPU that tries several."""
    monkeypatch.chdir(tmp_path)
    plan = Plan({"name": NAME, "data_root": drawn, "runs": "tood_af,atss_af"})
    paths, splits = StudyPaths(NAME), plan.splits
    numbers = dict(size=(64, 64), typical=18, largest=8, evaluated=2)
    manifest = take_sample(drawn, splits["train"], splits["val"], paths.rehearsal / "data", **numbers)
    write_json(paths.rehearsal / "manifest.json", manifest)

    def call(run_id: str = "tood_af", parts=False, analysed=False, iterations=None):
        job = rehearsal_job(plan, run_id, analysed, 2)
        if parts:
            job.training.settings["model"]["backbone"]["norm_eval"] = True
        job = job.model_copy(update={"iterations": iterations})
        execution = Execution(device="cpu")
        output = file_of(paths, run_id)
        output.parent.mkdir(parents=True, exist_ok=True)
        found = rehearse(job, execution, output, "digits")
        assert read_rehearsed(output) == found
        return found

    return call


def recorded_trainings(monkeypatch) -> list[dict]:
    """What each training was asked for and what it took."""
    calls, real = [], rehearsal.train

    def train(model, dataset, config, **options):
        took = real(model, dataset, config, **options)
        calls.append({**options, "images": len(dataset), "took": took, "lr": config.train.lr})
        return took

    monkeypatch.setattr(rehearsal, "train", train)
    return calls


def test_what_is_measured_is_what_happened(run, monkeypatch):
    calls = recorded_trainings(monkeypatch)
    found = run(iterations=4)
    assert not found.failed
    assert (found.run, found.digest, found.weights) == ("tood_af", "digits", "random")
    (call,) = calls
    # 18 images in batches of 8: of four iterations the third has 2
    assert (
        (found.iterations, found.images)
        == (4, 18 + 8)
        == (call["took"]["iterations"], call["took"]["images"])
    )
    assert found.images_per_second == pytest.approx(found.images / found.seconds)
    assert found.seconds == pytest.approx(call["took"]["seconds"], abs=0.5)
    assert found.trained_images == 19  # of the whole dataset, of which one is drawn without objects
    assert [one.micro_batch for one in found.attempts] == [8] == [found.micro_batch]
    assert found.attempts[0].images_per_second == found.images_per_second
    assert 100 < found.attempts[0].peak_memory_mb <= found.process_memory_mb
    assert found.evaluated_images == 2
    assert found.evaluation_seconds > 0
    assert found.loaded_per_second > 0


def test_random_weights_do_not_learn_so_that_they_cannot_diverge(run, monkeypatch):
    calls = recorded_trainings(monkeypatch)
    run()
    assert calls[0]["lr"] == rehearsal.STILL


def test_a_run_of_table_6_is_analysed(run, tmp_path):
    found = run(analysed=True)
    assert not found.failed
    folder = file_of(StudyPaths(NAME), "tood_af").parent
    assert json.loads((folder / "alignment.json").read_text())
    assert not (folder / "model.pth").exists()  # of 130 MB and more at full size


def test_several_numbers_of_images_are_tried(run, monkeypatch):
    monkeypatch.setattr(rehearsal, "tries_several", lambda device: True)
    calls = recorded_trainings(monkeypatch)
    found = run(parts=True, iterations=2)
    assert not found.failed
    assert [one.micro_batch for one in found.attempts] == [1, 2, 4, 8]
    assert [call["computing"].micro_batch for call in calls] == [1, 2, 4, 8, found.micro_batch]
    assert [call["images"] for call in calls] == [8, 8, 8, 8, 18]  # the largest, then typical ones
    assert found.iterations == 2


def test_batches_that_cannot_be_divided_are_not(run, monkeypatch):
    """The scale trains its batch normalisation."""
    monkeypatch.setattr(rehearsal, "tries_several", lambda device: True)
    found = run()
    assert not found.failed
    assert [one.micro_batch for one in found.attempts] == [8]


def scarce(monkeypatch, most: int, error: Exception) -> None:
    """Memory for this many images at a time."""
    real = rehearsal.train

    def train(*arguments, computing, **options):
        if computing.micro_batch > most:
            raise error
        return real(*arguments, computing=computing, **options)

    monkeypatch.setattr(rehearsal, "train", train)


ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
]


@pytest.mark.parametrize("error", ERRORS[:1], ids=["GPU"])
def test_what_does_not_fit_is_said_and_the_run_goes_on_with_what_does(run, monkeypatch, error):
    monkeypatch.setattr(rehearsal, "tries_several", lambda device: True)
    scarce(monkeypatch, 2, error)
    found = run(parts=True)
    assert not found.failed
    assert [(one.micro_batch, one.failed) for one in found.attempts] == [(1, ""), (2, ""), (4, str(error))]
    assert found.micro_batch in (1, 2)
    assert found.images_per_second > 0


@pytest.mark.parametrize("error", ERRORS, ids=["GPU", "CPU"])
@pytest.mark.parametrize("several", [True, False])
def test_a_run_of_which_nothing_fits_is_said(run, monkeypatch, several, error):
    monkeypatch.setattr(rehearsal, "tries_several", lambda device: several)
    scarce(monkeypatch, 0, error)
    found = run(parts=True)
    assert "out of memory" in found.failed
    assert "allocate" in found.failed
    assert found.attempts[0].failed
    assert found.images_per_second is None


def test_any_other_failure_is_said_too(run, monkeypatch):
    scarce(monkeypatch, 0, RuntimeError("no kernel image is available for execution on the device"))
    found = run()
    assert found.failed == "no kernel image is available for execution on the device"
    assert found.attempts == []


def test_a_kill_leaves_what_was_known(run, monkeypatch):
    """Written after each number of images at a time."""
    monkeypatch.setattr(rehearsal, "tries_several", lambda device: True)
    seen: list[Rehearsed] = []
    real = rehearsal.train

    def train(*arguments, **options):
        seen.append(read_rehearsed(file_of(StudyPaths(NAME), "tood_af")))
        return real(*arguments, **options)

    monkeypatch.setattr(rehearsal, "train", train)
    run(parts=True)
    assert [len(one.attempts) for one in seen] == [0, 1, 2, 3, 4]
    assert all(one.evaluation_seconds is None for one in seen)
