"""Parameters and FLOPs of the paper-sized models, counted without memory for a single weight.

Table 1 follows the hook counter that mmcv had before it counted GroupNorm: multiply-adds of convolutions
and their biases, ReLU, BatchNorm and pooling; trainable parameters only; an input of 1280 x 800. Functional
calls are not counted, except the T-head's 1x1 convolutions over all its layers (Eq. 4, 7 and 8), which it
computes as one product.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, cast

import torch
import torchvision.ops
from mmcv.cnn.utils import flops_counter
from mmdet.models.detectors import SingleStageDetector
from torch import Tensor, nn

from tood.engine.config import build_model, resolve
from tood.models.common.layers import DeformConv2d, ModulatedDeformConv2d
from tood.models.tood.t_head import HeadMaps, THead
from tood.study.plan import Plan

INPUT = (800, 1280)  # height, width
CONVENTIONS = ("paper", "modern")
COCO_CATEGORIES = [{"id": index, "name": str(index)} for index in range(80)]  # only their number matters


class Complexity(NamedTuple):
    """Of one detector; parameters in millions, FLOPs in 10^9 at 1280 x 800."""

    head_params_m: float
    params_m: float
    head_gflops: float
    gflops: float


def complexity(model: SingleStageDetector, convention: str = "paper") -> Complexity:
    """Count a detector built on the meta device (`with torch.device("meta")`).

    Args:
        model: with `extract_feat` and `bbox_head`.
        convention: "paper" (see the module), or "modern", which counts GroupNorm, deformable convolution
            and the bilinear sampling of Eq. 6 too, and all parameters, trainable or not.

    Raises:
        ValueError: unknown `convention`.
    """
    if convention not in CONVENTIONS:
        raise ValueError(f"convention is {convention!r}; there are {', '.join(CONVENTIONS)}")
    image = torch.zeros(1, 3, *INPUT, device="meta")
    model.eval()
    counters = flops_counter.get_modules_mapping() | {THead: _count_product}
    if convention == "paper":
        del counters[nn.GroupNorm]
    else:
        for layer in (DeformConv2d, ModulatedDeformConv2d, torchvision.ops.DeformConv2d):
            counters[layer] = flops_counter.conv_flops_counter_hook
        counters[THead] = _count_product_and_sampling
    with torch.no_grad():
        features, trunk = _count(model, counters, lambda: model.extract_feat(image))
        _, head = _count(model, counters, lambda: model.bbox_head(features))
    counted = [p.numel() for p in model.parameters() if convention == "modern" or p.requires_grad]
    head_counted = [
        p.numel() for p in model.bbox_head.parameters() if convention == "modern" or p.requires_grad
    ]
    return Complexity(sum(head_counted) / 1e6, sum(counted) / 1e6, head / 1e9, (trunk + head) / 1e9)


def of_runs(convention: str = "paper", runs: Sequence[str] | None = None) -> Iterator[tuple[str, Complexity]]:
    """Every run at its paper size; runs of the same model are counted once.

    Args:
        convention: as `complexity`.
        runs: ids of those to count; all by default.
    """
    plan, counted = Plan({"scale": "paper", "runs": runs}), {}
    for run in plan.runs:
        config = resolve(plan.settings(run.id), COCO_CATEGORIES, None)
        parts = {key: value for key, value in config.model.items() if key not in ("train_cfg", "test_cfg")}
        model = json.dumps(parts, sort_keys=True, default=str)
        if model not in counted:
            with torch.device("meta"):
                counted[model] = complexity(build_model(config), convention)
        yield run.id, counted[model]


class _Counted(Protocol):
    """A module while it is counted: mmcv's hooks add to this."""

    __flops__: int


def _count(model: nn.Module, counters: dict, run: Callable) -> tuple:
    """The result of `run`, and its number of operations by the hooks `counters`."""
    hooked: list[Any] = [module for module in model.modules() if type(module) in counters]
    handles = []
    for module in hooked:
        module.__flops__ = 0
        handles.append(module.register_forward_hook(counters[type(module)]))
    try:
        out = run()
        return out, sum(module.__flops__ for module in hooked)
    finally:
        for module, handle in zip(hooked, handles, strict=True):
            handle.remove()
            del module.__flops__


def _count_product(module: _Counted, inputs: tuple[Tensor, ...], output: HeadMaps) -> None:
    """Multiply-adds of the 1x1 convolutions, and their biases if they have any."""
    head = cast(THead, module)
    positions = output.cls_logits[:, 0].numel()
    weights = [head.cls_decomposition.reduction.conv.weight, head.reg_decomposition.reduction.conv.weight]
    weights.append(head.alignment.kernel())
    module.__flops__ += positions * (sum(weight.numel() for weight in weights) + len(weights[-1]))


def _count_product_and_sampling(module: _Counted, inputs: tuple[Tensor, ...], output: HeadMaps) -> None:
    _count_product(module, inputs, output)
    if output.offsets is not None:
        values = output.offsets.numel() // 2
        module.__flops__ += 4 * values  # four neighbours each
