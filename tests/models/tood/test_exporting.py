"""TOOD's detectors as one graph: traced, compiled and exported, for images of any size."""

import onnxruntime
import pytest
import torch
from helpers.detectors import build
from torch import Tensor, nn

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
RUNS = ("tood_af", "tood_ab")
STRIDE = 16  # pixels that the sides of an input are a multiple of


class Maps(nn.Module):
    """Backbone, neck and head: scores of each level, then boxes of each level."""

    def __init__(self, run: str) -> None:
        super().__init__()
        self.model = build(run).eval()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        scores, boxes = self.model.bbox_head(self.model.extract_feat(images))
        return *scores, *boxes


def images(number: int, height: int, width: int) -> Tensor:
    return torch.randn(number, 3, height, width, generator=torch.Generator().manual_seed(number))


def exported(run: str) -> torch.export.ExportedProgram:
    """For any number of images of any size."""
    number, rows, columns = (torch.export.Dim(name, max=128) for name in ("number", "rows", "columns"))
    sizes = {0: number, 2: STRIDE * rows, 3: STRIDE * columns}
    return torch.export.export(Maps(run), (images(2, 64, 96),), dynamic_shapes=(sizes,))


def assert_same(found, expected, atol: float) -> None:
    assert len(found) == len(expected) == 6
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(torch.as_tensor(one), other, rtol=0, atol=atol)


@pytest.fixture(params=RUNS)
def run(request) -> str:
    return request.param


@torch.no_grad()
def test_a_traced_detector_predicts_the_same(run):
    maps = Maps(run)  # whose head never saw an epoch
    traced = torch.jit.trace(maps, images(2, 64, 96))
    for given in (images(2, 64, 96), images(2, 128, 48)):
        assert_same(traced(given), maps(given), atol=1e-6)


@pytest.mark.parametrize("epoch", [None, pytest.param(4, marks=pytest.mark.slow)])
def test_a_head_compiles_as_one_graph(run, epoch):
    model = build(run).eval()
    if epoch is not None:
        model.train().bbox_head.set_epoch(epoch)
    feats = [level.detach() for level in model.extract_feat(images(2, 64, 96))]
    compiled = torch.compile(model.bbox_head, backend="aot_eager", fullgraph=True)
    for found, expected in zip(compiled(feats), model.bbox_head(feats), strict=True):
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@torch.no_grad()
def test_an_exported_detector_takes_images_of_any_size(run):
    program, maps = exported(run).module(), Maps(run)
    for given in (images(2, 64, 96), images(1, 128, 48)):
        assert_same(program(given), maps(given), atol=1e-6)


@pytest.mark.slow
@torch.no_grad()
def test_onnxruntime_predicts_the_same(run, tmp_path):
    torch.onnx.export(exported(run), f=tmp_path / "model.onnx", dynamo=True, optimize=False, verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    maps = Maps(run)
    for given in (images(2, 64, 96), images(1, 128, 48)):
        assert_same(session.run(None, {entry.name: given.numpy()}), maps(given), atol=1e-4)
