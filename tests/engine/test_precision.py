"""Training with the network in bfloat16."""

import pytest
import torch
from helpers.detectors import batch, build
from helpers.runs import one_of_each_head

from tood.data.loading import LocalBatch
from tood.engine.replicas import batch_gradient

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def losses_of(name: str, precision: str, iterations: int = 3) -> list[dict[str, float]]:
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


@pytest.mark.parametrize("name", one_of_each_head())
def test_losses_are_near_those_of_float32(name):
    single, half = (losses_of(name, precision) for precision in ("float32", "bf16"))
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
