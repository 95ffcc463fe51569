"""Layers that mmcv offers only as compiled operators, from torchvision.

mmengine's initialisers draw the weights of `Conv2d` and of classes directly below it. Like mmcv's, these
layers are not such classes: a rule for `layer="Conv2d"` does not draw their own weights. But it draws those
of the convolution that predicts the offsets, which mmdet's dense heads and `init_weights` set to zero again.
A head that needs other weights draws them itself, as the T-head does.
"""

import math
from collections.abc import Mapping
from typing import Any

import torchvision.ops
from mmengine.model import constant_init
from torch import Tensor, cat, nn

from tood.models.common.deformable import deform_conv2d
from tood.models.common.precision import single_at_least, without_autocast
from tood.models.common.registry import MODELS


@MODELS.register_module()
class DeformConv2d(torchvision.ops.DeformConv2d):
    """Deformable convolution (DCN) that predicts its own offsets.

    Parameters, their order and their initial weights equal those of mmcv's `DCN` layer, so its checkpoints
    load; use it in mmdet configurations as `dcn=dict(type="tood.DeformConv2d", deform_groups=...)`.

    Args:
        deform_groups: groups of input channels that share an offset.
        others: as `torchvision.ops.DeformConv2d`; mmcv's layer has no bias.
    """

    maps_per_point = 2  # dy and dx
    # What mmcv's `ConvModule` asks of a convolution
    transposed = False
    output_padding = (0, 0)

    def __init__(self, *args: Any, deform_groups: int = 1, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.deform_groups = deform_groups
        self.conv_offset = nn.Conv2d(
            self.in_channels,
            self.maps_per_point * deform_groups * math.prod(self.kernel_size),
            self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
        )
        self.init_weights()

    def reset_parameters(self) -> None:
        """Draw the weights of the convolution itself."""
        nn.init.kaiming_uniform_(self.weight, nonlinearity="relu")
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def init_weights(self) -> None:
        """Start as an ordinary convolution: no offset."""
        constant_init(self.conv_offset, 0)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C_in, H, W] to [B, C_out, H', W']."""
        return self._sample(x, self.conv_offset(x))

    def _sample(self, x: Tensor, offset: Tensor, mask: Tensor | None = None) -> Tensor:
        """The convolution itself, for float32 at least."""
        with without_autocast(x):
            maps = (single_at_least(x), single_at_least(offset))
            how = self.stride, self.padding, self.dilation
            factors = None if mask is None else single_at_least(mask)
            return deform_conv2d(*maps, self.weight, self.bias, *how, factors)


@MODELS.register_module()
class ModulatedDeformConv2d(DeformConv2d):
    """Modulated deformable convolution (DCNv2): it weighs each point that it samples by a mask.

    Equals mmcv's `DCNv2` layer; use it as `conv_cfg=dict(type="tood.ModulatedDeformConv2d", ...)`. It starts
    as an ordinary convolution with half its weight: no offset, mask 0.5.

    Args: as `DeformConv2d`.
    """

    maps_per_point = 3  # dy, dx and the mask

    def reset_parameters(self) -> None:
        """Draw the weights of the convolution itself; as in mmcv, `groups` do not widen their range."""
        bound = 1 / math.sqrt(self.in_channels * math.prod(self.kernel_size))
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C_in, H, W] to [B, C_out, H', W']."""
        first, second, mask = self.conv_offset(x).chunk(3, dim=1)
        return self._sample(x, cat([first, second], 1), mask.sigmoid())


def rename_offsets(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of an early mmcv with today's names: `conv2_offset.weight` as `conv2.conv_offset.weight`.

    This is a function, because a layer cannot do it while it loads: torch and mmengine give a layer only the
    names that begin with its own, so mmcv's own renaming finds nothing.

    Args:
        state_dict: names to tensors; not modified, tensors are shared. Names without a convolution beside
            them, and all others, pass unchanged.
    """
    renamed = {}
    for name, tensor in state_dict.items():
        layer, _, parameter = name.rpartition(".")
        convolution = layer.removesuffix("_offset")
        if convolution != layer and f"{convolution}.weight" in state_dict:
            name = f"{convolution}.conv_offset.{parameter}"
        renamed[name] = tensor
    return renamed
