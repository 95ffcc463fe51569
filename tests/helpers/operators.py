"""mmdet's own heads where mmcv has no compiled operators, and in float64."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from mmdet.models.task_modules.prior_generators import AnchorGenerator


def operators_of_torchvision(replace: Callable[[object, str, object], None]) -> None:
    """Put torchvision's operators in the place of those of mmcv that mmdet's heads call, compiled or not.

    Args:
        replace: as `setattr`.
    """
    import mmcv.ops
    import torchvision.ops
    from mmdet.models.dense_heads import tood_head

    def nms(boxes, scores, iou_threshold: float, offset: int):
        assert offset == 0  # a box's width is x2 - x1
        return torchvision.ops.nms(boxes, scores, iou_threshold)

    def deform_conv2d(
        feature, offset, weight, stride, padding, dilation, groups, deform_groups, bias=False, im2col_step=32
    ):
        assert not bias
        # torchvision reads both numbers of groups from the shapes
        _, per_group, *kernel = weight.shape
        assert per_group * groups == feature.shape[1]
        assert 2 * deform_groups * kernel[0] * kernel[1] == offset.shape[1]
        return torchvision.ops.deform_conv2d(feature, offset, weight, None, stride, padding, dilation)

    def modulated_deform_conv2d(
        feature, offset, mask, weight, bias, stride, padding, dilation, groups, deform_groups
    ):
        assert deform_groups * weight[0, 0].numel() == mask.shape[1]
        return torchvision.ops.deform_conv2d(feature, offset, weight, bias, stride, padding, dilation, mask)

    replace(sys.modules["mmcv.ops.nms"].ext_module, "nms", nms)
    replace(tood_head, "deform_conv2d", deform_conv2d)
    replace(mmcv.ops, "deform_conv2d", deform_conv2d)
    replace(sys.modules["mmcv.ops.deform_conv"], "deform_conv2d", deform_conv2d)
    replace(sys.modules["mmcv.ops.modulated_deform_conv"], "modulated_deform_conv2d", modulated_deform_conv2d)


@contextmanager
def no_rounding() -> Iterator[None]:
    """mmdet makes float32 of anchors, distances and IoUs; in float64 only the arithmetic is compared."""
    of_grid = AnchorGenerator.grid_priors

    def grid_priors(self, sizes, dtype=torch.float64, device="cpu"):
        return of_grid(self, sizes, torch.float64, device)

    with (
        patch.object(torch.Tensor, "float", torch.Tensor.double),
        patch.object(torch, "float", torch.float64),
        patch.object(torch, "float32", torch.float64),
        patch.object(AnchorGenerator, "grid_priors", grid_priors),
    ):
        yield
