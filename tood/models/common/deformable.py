"""Deformable convolution as a function."""

from typing import Any

import torch
import torch.nn.functional as F
import torchvision.ops
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# From this number of groups on, one product for all of them replaces torchvision's loop on a GPU. The loop
# has one product per group, three with the backward pass; the products of ResNeXt with 32 or 64 groups are
# tiny.
MANY_GROUPS = 16


def deform_conv2d(
    x: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    mask: Tensor | None = None,
) -> Tensor:
    """`torchvision.ops.deform_conv2d` (Dai et al., ICCV 2017; with a mask Zhu et al., CVPR 2019).

    On a GPU with few groups this is torchvision's kernel. Otherwise all points are sampled by `grid_sample`
    and multiplied by the weights: on a CPU, where the kernel takes five to ten times as long, and on a GPU
    with many groups. The samples, 9 times the input for a kernel of 3 x 3, are not kept for the backward pass
    but computed again, as in torchvision.

    In float32 the samples' positions are rounded in another way than torchvision's, by some 1e-4 pixels.

    Args:
        x: [B, C_in, H, W].
        offset: [B, 2 * D * K, H', W'], dy and dx in pixels of x, for each of D groups of channels and each of
            the K points of the kernel.
        weight: [C_out, C_in / groups, rows, columns].
        bias: [C_out].
        stride, padding, dilation: vertically and horizontally.
        mask: [B, D * K, H', W'], factors of what is sampled.

    Returns:
        [B, C_out, H', W']
    """
    given = x, offset, weight, bias, stride, padding, dilation, mask
    if not x.is_cuda:
        return _by_sampling(*given)
    if x.shape[1] // weight.shape[1] < MANY_GROUPS:
        return torchvision.ops.deform_conv2d(*given)
    return _by_sampling_again(*given)


def _by_sampling_again(*given: Any) -> Tensor:
    """`_by_sampling` that keeps only its arguments for the backward pass."""
    return checkpoint(_by_sampling, *given, use_reentrant=False, preserve_rng_state=False)


def _by_sampling(
    x: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    mask: Tensor | None,
) -> Tensor:
    """`deform_conv2d` by `grid_sample` and one product for all groups."""
    batch, channels, height, width = x.shape
    rows, columns = weight.shape[2:]
    points, out = rows * columns, offset.shape[-2:]
    groups = channels // weight.shape[1]
    shares = batch * offset.shape[1] // (2 * points)  # images times groups of channels that share offsets
    own = offset.view(shares, points, 2, *out)

    def positions(axis: int) -> Tensor:
        """Coordinates of the points along an axis [shares, K, H', W'], in (-1, 1) within x."""
        of_kernel = torch.arange((rows, columns)[axis], device=x.device) * dilation[axis] - padding[axis]
        of_point = of_kernel.repeat_interleave(columns) if axis == 0 else of_kernel.repeat(rows)  # [K]
        of_place = torch.arange(out[axis], device=x.device) * stride[axis]
        place = of_place.view(-1, 1) if axis == 0 else of_place  # [H', 1] or [W']
        pixels = own[:, :, axis] + (of_point.view(-1, 1, 1) + place)
        side = (height, width)[axis]
        # At a whole pixel, where offsets start, bilinear interpolation has two derivatives. torchvision and
        # mmcv take the one of the larger coordinates; rounding must not select the other.
        return (2 * (pixels + 4 * side * torch.finfo(x.dtype).eps) + 1) / side - 1

    grid = torch.stack([positions(1), positions(0)], -1)  # [shares, K, H', W', 2]
    sampled = F.grid_sample(
        x.reshape(shares, -1, height, width),
        grid.view(shares, points * out[0], out[1], 2),
        padding_mode="zeros",
        align_corners=False,
    ).view(shares, -1, points, *out)  # [shares, C_in / D, K, H', W']
    if mask is not None:
        sampled = sampled * mask.reshape(shares, 1, points, *out)
    of_group = sampled.view(batch, groups, -1, out.numel())  # [B, groups, C_in / groups * K, H' * W']
    summed = weight.view(groups, weight.shape[0] // groups, -1) @ of_group
    summed = summed.view(batch, -1, *out)  # [B, C_out, H', W']
    return summed if bias is None else summed + bias.view(1, -1, 1, 1)
