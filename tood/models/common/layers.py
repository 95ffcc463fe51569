"""Layers that mmcv offers only as compiled operators, from torchvision."""

from typing import Any

import torch
from mmengine.model import constant_init
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from tood.models.common.registry import MODELS


@MODELS.register_module()
class ModulatedDeformConv2d(nn.Conv2d):
    """Modulated deformable convolution (DCNv2) that predicts its own offsets and mask.

    Parameters and their order equal mmcv's `DCNv2` layer, so its checkpoints load; use it in mmdet
    configurations as `conv_cfg=dict(type="tood.ModulatedDeformConv2d", deform_groups=...)`.

    Args:
        deform_groups: groups of input channels that share an offset.
        others: as `torch.nn.Conv2d`.
    """

    # torch declares these for any number of dimensions.
    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    padding: str | tuple[int, int]
    dilation: tuple[int, int]

    def __init__(self, *args: Any, deform_groups: int = 1, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        points = deform_groups * self.kernel_size[0] * self.kernel_size[1]
        self.conv_offset = nn.Conv2d(
            self.in_channels,
            3 * points,
            self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
        )
        self.init_weights()

    def init_weights(self) -> None:
        """Start as an ordinary convolution with half its weight: no offset, mask 0.5."""
        constant_init(self.conv_offset, 0)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C_in, H, W] to [B, C_out, H', W']."""
        first, second, mask = self.conv_offset(x).chunk(3, dim=1)
        return deform_conv2d(
            x,
            torch.cat([first, second], 1),
            self.weight,
            self.bias,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            mask=mask.sigmoid(),
        )
