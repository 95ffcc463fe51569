"""Detectors as files for other programs: ONNX, and programs of `torch.export`."""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.model.utils import stack_batch
from torch import Tensor

from tood.evaluation.detector import Detector
from tood.evaluation.graph import Graph
from tood.runtime.failures import InputError
from tood.runtime.files import atomic_path, write_json

ONNX, TORCH = ".onnx", ".pt2"
NAMES = {False: ("boxes", "scores", "confidence"), True: ("boxes", "scores", "labels")}  # by NMS
OPSET = 20
LARGEST = 512  # steps of the divisor on a side, and images
_NEEDS = "is not installed; `make env` in a clone installs what exports need, with the pinned versions"


class Difference(NamedTuple):
    """Of a file's results from the detector's."""

    score: float
    box: float  # pixels of the input


def export(detector: Detector, path: Path, with_nms: bool, half: bool) -> Graph:
    """Write a detector as a file, and beside it `NAME.json` that says what goes in and what comes out.

    Args:
        detector: of the suite, on the CPU.
        path: ends in `ONNX` or `TORCH`.
        with_nms: as for `Graph`.
        half: weights and maps are float16; coordinates and scores are decoded in float32.

    Returns:
        the graph that was written, in float32

    Raises:
        ExperimentError: the detector cannot be written so.
        InputError: packages are missing.
    """
    graph = Graph(detector.model, detector.test_cfg, with_nms)
    divisor = detector.model.data_preprocessor.pad_size_divisor
    if half:
        graph.model.half()
    try:
        program = program_of(graph, divisor)
        with atomic_path(path) as temporary:
            if path.suffix == TORCH:
                torch.export.save(program, temporary)
            else:
                _write_onnx(program, temporary, NAMES[with_nms])
    finally:
        graph.model.float()
    write_json(path.with_suffix(".json"), description(detector, with_nms, half))
    return graph


def description(detector: Detector, with_nms: bool, half: bool) -> dict[str, Any]:
    """What a program must know to use a file."""
    (resize, *_) = detector.transforms
    longer, shorter = sorted(resize["scale"], reverse=True)  # a configuration may have either first
    return {
        "name": detector.name,
        "classes": list(detector.classes),
        "category_ids": list(detector.category_ids),
        "longer_side": longer,
        "shorter_side": shorter,
        "multiple_of": detector.model.data_preprocessor.pad_size_divisor,
        "inputs": {
            "images": "uint8 [B, 3, H, W], BGR, resized, at the top left",
            "sizes": "int64 [B, 2], (height, width) of each image without what is around it",
        },
        "outputs": list(NAMES[with_nms]),
        "nms": with_nms,
        "half": half,
        "test_cfg": {key: value for key, value in detector.test_cfg.items() if key != "type"},
    }


def program_of(graph: Graph, divisor: int) -> torch.export.ExportedProgram:
    """The graph for any number and size of images.

    Args:
        graph: to export.
        divisor: of the sides of its images.
    """
    # Large enough for several locations on the coarsest level: torch would take a single one for a constant.
    coarsest = max(max(stride) for stride in graph.model.bbox_head.prior_generator.strides)
    side = -(-coarsest // divisor) * divisor
    images, sizes = sample([(2 * side, 3 * side), (2 * side - 1, 2 * side)], divisor, seed=0)
    batch, rows, columns = (torch.export.Dim(name, max=LARGEST) for name in ("batch", "rows", "columns"))
    shapes = ({0: batch, 2: divisor * rows, 3: divisor * columns}, {0: batch})
    with _silently(), torch.no_grad():
        return torch.export.export(graph, (images, sizes), dynamic_shapes=shapes)


def sample(shapes: Sequence[tuple[int, int]], divisor: int, seed: int) -> tuple[Tensor, Tensor]:
    """Random images of these (height, width) as the graph takes them, with random pixels around them."""
    sides = [-(-max(lengths) // divisor) * divisor for lengths in zip(*shapes, strict=True)]
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (len(shapes), 3, *sides), generator=generator, dtype=torch.uint8)
    return images, torch.tensor(shapes)


def batch_of(
    detector: Detector, images: Sequence[np.ndarray]
) -> tuple[Tensor, Tensor, list[tuple[float, float]]]:
    """Images as a file takes them.

    Args:
        detector: whose input size they get.
        images: [H, W, 3] uint8 BGR of any sizes.

    Returns:
        images, sizes, and of each image the factors (x, y) by which it was resized
    """
    prepared = [detector.prepare(image) for image in images]
    pixels = [each["inputs"] for each in prepared]  # [3, h, w]
    batch = stack_batch(pixels, detector.model.data_preprocessor.pad_size_divisor)  # 0 around each image
    factors = [tuple(each["data_samples"].scale_factor) for each in prepared]
    return batch, torch.tensor([each.shape[1:] for each in pixels]), factors


def loaded(path: Path) -> Callable[[Tensor, Tensor], list[Tensor]]:
    """A file as a function of images and sizes.

    Raises:
        InputError: onnxruntime is missing.
    """
    if path.suffix == TORCH:
        # Its guards exclude levels with one row or column, for memory layouts. What it computes is right.
        module = torch.export.load(path).module(check_guards=False)
        return lambda images, sizes: list(module(images, sizes))
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError(f"{path}: the package onnxruntime {_NEEDS}") from error
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(images: Tensor, sizes: Tensor) -> list[Tensor]:
        given = {"images": images.numpy(), "sizes": sizes.numpy()}
        return [torch.as_tensor(each) for each in session.run(None, given)]

    return run


@torch.no_grad()
def difference(path: Path, graph: Graph, divisor: int) -> Difference:
    """The largest difference of a file's results from the detector's, over random images of other sizes.

    Args:
        path: written by `export`, without NMS.
        graph: that was written.
        divisor: of the sides of its images.
    """
    given = sample([(3 * divisor - 5, 2 * divisor), (divisor, 4 * divisor - 1), (7, 9)], divisor, seed=1)
    pairs = zip(graph(*given), loaded(path)(*given), strict=True)
    box, *others = (float((expected - result).abs().max()) for expected, result in pairs)
    return Difference(max(others), box)


def _write_onnx(program: torch.export.ExportedProgram, path: Path, names: Sequence[str]) -> None:
    try:
        import onnxscript
    except ImportError as error:
        raise InputError(f"{path}: the package onnxscript {_NEEDS}") from error
    op = getattr(onnxscript, f"opset{OPSET}")

    def non_max_suppression(boxes: Any, scores: Any, iou: float) -> Any:
        every = op.Constant(value_int=2**31 - 1)
        return op.NonMaxSuppression(
            boxes, scores, every, op.Constant(value_float=iou), op.Constant(value_float=0.0)
        )

    _drop_idle_casts(program)
    with _silently():
        written = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            output_names=list(names),
            custom_translation_table={torch.ops.tood.nms.default: non_max_suppression},
            optimize=False,  # it takes minutes, and runtimes optimise what they load
            verbose=False,
        )
        assert written is not None
        for node in written.model.graph.all_nodes():
            node.metadata_props.clear()  # paths of this machine, and most of a small file
        written.save(path, external_data=False)


def _drop_idle_casts(program: torch.export.ExportedProgram) -> None:
    """Remove `type_as` that changes nothing; of a buffer, torch's exporter would give it two names."""
    graph = program.graph_module.graph
    for node in list(graph.find_nodes(op="call_function", target=torch.ops.aten.type_as.default)):
        source, _ = node.args
        if source.meta["val"].dtype == node.meta["val"].dtype:
            node.replace_all_uses_with(source)
            graph.erase_node(node)
    program.graph_module.recompile()


@contextlib.contextmanager
def _silently() -> Iterator[None]:
    """Without what torch says of its own deprecations."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
