"""Exported detectors against the detector itself: in eager mode, as `torch.export` and as ONNX."""

import json

import numpy as np
import onnx
import pytest
import torch
from helpers.detectors import CATEGORIES, build, configuration
from torch import Tensor

from tood.cli import main
from tood.evaluation import exporting
from tood.evaluation.detector import Detector, own_transforms
from tood.evaluation.exporting import batch_of, difference, export, loaded, sample
from tood.evaluation.graph import Graph, Selection, select
from tood.models.common.dense_level import DenseLevel
from tood.models.common.dense_prediction import select_detections
from tood.study.declarations import ExperimentError

pytestmark = [pytest.mark.filterwarnings(f"ignore::{kind}") for kind in ("UserWarning", "DeprecationWarning")]
DIVISOR = 16  # of the models of the scale smoke
RUNS = ("tood_af", "tood_ab", "atss_af", "gfl_r101", "fcos")
HEADS = (  # one of each, and deformable convolutions
    *("fovea", "fovea_thead", "fcos", "fcos_imprv_thead", "atss_ab", "atss_ab_thead", "retinanet", "pisa"),
    *("freeanchor", "paa_iou", "sapd_r101", "gfl_r101", "gflv2_x101_32x4d_dcn", "ota_x101_64x4d_dcn"),
    *("iqdet_x101_64x4d_dcn", "vfnet_x101_64x4d_dcn", "tood_af", "tood_ab", "tood_af with DCN"),
)


def detector(run: str, least_score: float = 0.0) -> Detector:
    """With initial weights, whose scores are all low."""
    model = build(run).eval()
    cfg = dict(model.bbox_head.test_cfg) | {"score_thr": least_score}
    names = [category["name"] for category in CATEGORIES]
    transforms = own_transforms(configuration(run))
    return Detector(run, model, names, range(1, 6), transforms, cfg, torch.device("cpu"))


def images(*sizes: tuple[int, int]) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(256, size=(*size, 3), dtype=np.uint8) for size in sizes]


PICTURES = images((60, 64), (64, 50), (128, 128))  # all fill 64 x 64 pixels of the input


@torch.no_grad()
@pytest.mark.parametrize("run", HEADS)
def test_a_graph_predicts_what_the_detector_predicts(run):
    found = detector(run)
    boxes, scores, confidence = Graph(found.model, found.test_cfg, nms=False)(*batch_of(found, PICTURES)[:2])
    for place, picture in enumerate(PICTURES):
        _, levels = found.predict(found.prepare(picture))
        for mine, name in ((boxes, "boxes"), (scores, "scores"), (confidence, "confidence")):
            theirs = torch.cat([getattr(level, name) for level in levels])
            torch.testing.assert_close(mine[place], theirs, rtol=1e-5, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("run", RUNS)
def test_a_graph_with_nms_detects_what_the_detector_detects(run):
    found = detector(run)
    given, sizes, factors = batch_of(found, PICTURES)
    assert factors == [(1, 1), (1, 1), (0.5, 0.5)]
    boxes, scores, labels = Graph(found.model, found.test_cfg, nms=True)(given, sizes)
    for place, picture in enumerate(PICTURES):
        expected = found.detect(picture)
        number = len(expected)
        assert number > 20
        assert not scores[place, number:].any()
        torch.testing.assert_close(scores[place, :number], expected.scores, rtol=1e-5, atol=1e-6)
        pixels = boxes[place, :number] / torch.tensor(factors[place] * 2)
        mine, theirs = (
            sorted(zip(one.round(decimals=2).tolist(), some.tolist(), strict=True))
            for one, some in ((pixels, labels[place, :number]), (expected.bboxes, expected.labels))
        )
        same = sum(
            np.allclose([*a, b], [*c, d], atol=0.02) for (a, b), (c, d) in zip(mine, theirs, strict=True)
        )
        assert same >= 0.95 * number  # of nearly equal scores NMS may keep another one


def levels_of(number: int, seed: int) -> list[list[DenseLevel]]:
    """Levels of images with scores on a coarse grid of values that are all different."""
    rng = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(number):
        levels = []
        for side in (8, 4):
            scores = torch.randperm(side * side * 3, generator=rng).view(-1, 3) / 300
            corners = torch.rand(side * side, 2, generator=rng) * 40
            sizes = torch.rand(side * side, 2, generator=rng) * 30 - 2  # some without an area
            boxes = torch.cat([corners, corners + sizes.clamp(min=0)], 1)
            confidence = scores * torch.rand(side * side, 1, generator=rng)
            levels.append(DenseLevel(scores, confidence, boxes, corners, (side, side), 8))
        found.append(levels)
    return found


@pytest.mark.parametrize("by", ["location", "pair", "confident_pair"])
@pytest.mark.parametrize("on", ["score", "confidence"])
@pytest.mark.parametrize("before", [10, 1000])
def test_the_selection_is_that_of_the_suite(by, on, before):
    cfg = {
        "score_thr": 0.2,
        "nms_pre": before,
        "nms_pre_by": by,
        "score_thr_on": on,
        "nms": {"iou_threshold": 0.4},
        "max_per_img": 12,
        "min_bbox_size": 0,
    }
    several = levels_of(3, seed=before)
    stacked = [
        tuple(torch.stack([getattr(one, name) for one in same]) for name in ("boxes", "scores", "confidence"))
        for same in zip(*several, strict=True)
    ]
    boxes, scores, labels = select(stacked, Selection.of(cfg))
    for place, levels in enumerate(several):
        expected = select_detections(levels, {}, cfg, rescale=False)
        number = len(expected)
        assert 3 < number <= 12
        torch.testing.assert_close(scores[place, :number], expected.scores)
        assert torch.equal(labels[place, :number], expected.labels)
        assert torch.equal(boxes[place, :number], expected.bboxes)
        assert not scores[place, number:].any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score_voting": True}, "score voting"),
        ({"nms": {"type": "soft_nms", "iou_threshold": 0.5}}, "NMS of the type 'soft_nms'"),
        ({"min_bbox_size": 4}, "a least side of 4 pixels"),
        ({"nms_pre": -1}, "all anchors before NMS"),
    ],
)
def test_a_selection_that_the_graph_lacks_is_refused(change, message):
    with pytest.raises(ExperimentError, match=f"--nms: the model asks for {message}"):
        Selection.of(detector("tood_af").test_cfg | change)


# Files


@pytest.mark.slow
@pytest.mark.parametrize("half", [False, True])
def test_a_program_of_torch_predicts_the_same(tmp_path, half):
    found = detector("tood_af")
    path = tmp_path / "tood.pt2"
    graph = export(found, path, with_nms=False, half=half)
    assert next(found.model.parameters()).dtype == torch.float32
    off = difference(path, graph, DIVISOR)
    assert_close(off, half)
    about = json.loads(path.with_suffix(".json").read_text())
    assert (about["classes"], about["multiple_of"], about["half"]) == (found.classes, DIVISOR, half)
    assert (about["longer_side"], about["shorter_side"], about["nms"]) == (64, 64, False)


def test_the_limit_of_the_longer_side_is_the_larger_one():
    """`Resize` takes its two limits in either order, as `input.size` of an option may have them."""
    found = detector("tood_af")
    found.transforms[0]["scale"] = (48, 64)
    about = exporting.description(found, with_nms=False, half=False)
    assert (about["longer_side"], about["shorter_side"]) == (64, 48)
    image = np.zeros((50, 100, 3), np.uint8)
    assert found.prepare(image)["inputs"].shape[1:] == (32, 64)


def assert_close(off: exporting.Difference, half: bool) -> None:
    """The largest difference of each kind is what docs/export.md says."""
    score, box = (2e-3, 0.5) if half else (1e-5, 1e-3)
    assert off.score < score
    assert off.box < box


@pytest.mark.slow
@pytest.mark.parametrize("run", RUNS)
def test_onnxruntime_predicts_the_same(tmp_path, run):
    path = tmp_path / "model.onnx"
    graph = export(detector(run), path, with_nms=False, half=False)
    assert_close(difference(path, graph, DIVISOR), half=False)


@pytest.mark.slow
@torch.no_grad()
def test_onnxruntime_detects_the_same(tmp_path):
    found, path = detector("tood_af"), tmp_path / "model.onnx"
    graph = export(found, path, with_nms=True, half=False)
    run = loaded(path)
    given = batch_of(found, PICTURES)[:2]
    for inputs in (given, sample([(33, 70)], DIVISOR, seed=2)):
        assert_same_detections(run(*inputs), graph(*inputs))
    empty = [torch.zeros_like(given[0]), given[1]]  # of one colour
    assert_same_detections(run(*empty), graph(*empty))


def assert_same_detections(found: list[Tensor], expected: tuple[Tensor, ...]) -> None:
    boxes, scores, labels = found
    torch.testing.assert_close(scores, expected[1], rtol=0, atol=1e-5)
    same = (labels == expected[2]) & torch.isclose(boxes, expected[0], atol=1e-2).all(2)
    assert same.float().mean() > 0.95


@pytest.mark.slow
def test_onnx_in_half_precision(tmp_path):
    path = tmp_path / "model.onnx"
    graph = export(detector("tood_af"), path, with_nms=False, half=True)
    assert_close(difference(path, graph, DIVISOR), half=True)
    kinds = {each.data_type for each in onnx.load(path).graph.initializer if len(each.dims) == 4}
    assert kinds == {onnx.TensorProto.FLOAT16}  # of all convolutions
    assert b"tests/evaluation" not in path.read_bytes()  # no paths of this machine


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--output", "x.engine"], "--output x.engine: must end in .onnx or .pt2"),
        (["--output", "x.pt2", "--nms"], "--nms: only with ONNX"),
    ],
)
def test_what_cannot_be_exported_is_said(capsys, words, message):
    assert main(["export", "--run", "tood_af", *words]) == 2
    assert message in capsys.readouterr().err
