"""Training with backbone and neck compiled: the same losses and gradients, and the same names."""

import pytest
import torch
from helpers.detectors import batch, build

from tood.data.loading import LocalBatch
from tood.engine import compiling
from tood.engine.compiling import compile_network
from tood.engine.replicas import batch_gradient

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
SIZES = [((64, 64), (50, 60)), ((96, 64), (80, 64))]  # of the images of two steps


@pytest.fixture(autouse=True)
def _nothing_compiled_before():
    torch.compiler.reset()


def steps(name: str, compiled: bool) -> tuple[list[float], dict]:
    """Losses of two steps on images of other sizes, and the gradients of the last."""
    model = build(name).train()
    if compiled:
        compile_network(model, backend="aot_eager", fullgraph=True)
    model.bbox_head.set_progress(4, 0.5)
    losses = [batch_gradient(model, LocalBatch([batch(sizes)], 1))["loss"].item() for sizes in SIZES]
    return losses, {name: p.grad for name, p in model.named_parameters()}


# Groups and deformable layers in the backbone
LONG = pytest.param("vfnet_x101_64x4d_dcn", marks=pytest.mark.slow)


@pytest.mark.parametrize("name", ["tood_af", LONG])
def test_losses_and_gradients_are_those_without(name):
    (expected, gradients), (found, compiled) = steps(name, False), steps(name, True)
    assert found == pytest.approx(expected, rel=1e-5)
    assert compiled.keys() == gradients.keys()
    for parameter, gradient in gradients.items():
        if gradient is None:
            assert compiled[parameter] is None
        else:
            scale = gradient.abs().max().item()
            torch.testing.assert_close(compiled[parameter], gradient, rtol=0, atol=1e-5 * scale + 1e-12)


def test_names_of_weights_stay():
    model = build("tood_af")
    before = list(model.state_dict())
    compile_network(model, backend="aot_eager")
    assert list(model.state_dict()) == before


def test_a_missing_compiler_is_named(monkeypatch):
    monkeypatch.setattr(compiling.shutil, "which", lambda name: None)
    with pytest.raises(RuntimeError, match=r"compile=true: .*C\+\+ compiler.*g\+\+"):
        compile_network(build("tood_af"))
