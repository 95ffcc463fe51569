"""Training with the network in bfloat16, or with TF32 allowed."""

import json

import pytest
import torch
from helpers.detectors import batch, build
from helpers.runs import one_of_each_head
from helpers.trainer import prepare

from tood.data.loading import LocalBatch
from tood.engine import job as jobs
from tood.engine.job import run_training
from tood.engine.replicas import batch_gradient
from tood.ledger.study_jobs import training_job
from tood.runtime.failures import ExitCode, StopRequest
from tood.study.jobs import Execution
from tood.study.plan import Plan

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def losses_of(name: str, precision: str, iterations: int) -> list[dict[str, float]]:
    """Of the first iterations of a training on one batch, and the gradient's types are checked."""
    model = build(name).train()
    model.bbox_head.set_progress(0, 0.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    found = []
    for _ in range(iterations):
        losses = batch_gradient(model, LocalBatch([batch()], 1), precision=precision)
        assert {value.dtype for value in losses.values()} <= {torch.float32, torch.float64}
        assert all(p.grad.dtype == torch.float32 for p in model.parameters() if p.grad is not None)
        optimizer.step()
        found.append({name: value.item() for name, value in losses.items()})
    return found


@pytest.mark.parametrize(
    ("name", "iterations"), [("tood_af", 3), *((name, 1) for name in one_of_each_head() if name != "tood_af")]
)
def test_losses_are_near_those_of_float32(name, iterations):
    single, half = (losses_of(name, precision, iterations) for precision in ("float32", "bf16"))
    assert single != half
    for a, b in zip(single, half, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=0.05)


def test_boxes_and_scores_are_not_rounded_to_bfloat16():
    """The coordinates that TOOD decodes and aligns; 8 binary digits could not tell one cell from the next."""
    model = build("tood_af").train()
    with torch.autocast("cpu", torch.bfloat16):
        scores, boxes = model.bbox_head(model.extract_feat(torch.randn(1, 3, 64, 64)))
    for level in (*scores, *boxes):
        assert level.dtype == torch.float32
        assert not torch.equal(level, level.bfloat16().float())


@pytest.fixture
def backends():
    """torch's settings for convolutions and for products, which stay as they were."""
    found = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [backend.allow_tf32 for backend in found]
    yield found
    for backend, allowed in zip(found, before, strict=True):
        backend.allow_tf32 = allowed


@pytest.mark.parametrize(("precision", "allowed"), [("float32", False), ("tf32", True), ("bf16", False)])
def test_tf32_is_allowed_where_a_study_says_so(tmp_path, monkeypatch, backends, precision, allowed):
    """From the option to torch; it says nothing of the CPU, on which this trains."""
    monkeypatch.setattr(StopRequest, "install", lambda stop: None)
    monkeypatch.setattr(jobs, "survive_broken_pipes", lambda: None)
    data = prepare(tmp_path / "data")
    for backend in backends:
        backend.allow_tf32 = not allowed
    study = {"name": "test", "iterations": 1, "batch_size": 2, "precision": precision}
    job = training_job(Plan(study), "tood_af", 0).model_copy(update={"manifest": data / "manifest.json"})
    folder = tmp_path / "run"
    ended = run_training(job, Execution(device="cpu"), folder, tmp_path / "model.pth")
    assert ended == ExitCode.DONE
    assert [backend.allow_tf32 for backend in backends] == [allowed, allowed]
    made = json.loads((folder / "provenance.json").read_text())
    assert made["config"]["train"]["precision"] == precision


def test_on_a_cpu_tf32_is_float32():
    single, rounded = (losses_of("tood_af", precision, 1) for precision in ("float32", "tf32"))
    assert single == rounded
