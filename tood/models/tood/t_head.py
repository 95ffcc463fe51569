"""The task-aligned head (T-head): equations 1 to 4, 7 and 8 of the paper, without targets or losses."""

from typing import NamedTuple, Protocol, cast

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmengine.model import bias_init_with_prob, normal_init
from torch import Tensor, nn

from tood.models.common.precision import single_at_least
from tood.models.tood.task_decomposition import TaskDecomposition

# Deformable groups of the head's first layers in the DCN models of Table 5 (released code).
DEFORM_GROUPS = 4
# Every location starts with this probability of an object, in P and in M alike (released code).
PRIOR_PROBABILITY = 0.01
# Of every tower convolution; the paper is silent, its parameter counts fit no other choice.
GROUP_NORM = {"type": "GN", "num_groups": 32, "requires_grad": True}


class HeadMaps(NamedTuple):
    """Raw predictions of one pyramid level; the last two are None in a head without alignment."""

    cls_logits: Tensor  # [B, num_classes, H, W]
    regression: Tensor  # [B, 4, H, W], meaning set by the box codec; more channels in some hosts
    prob_logits: Tensor | None  # [B, 1, H, W], M of Eq. 7 before its sigmoid
    offsets: Tensor | None  # [B, 8, H, W], O of Eq. 8, in cells


def in_single(maps: HeadMaps) -> HeadMaps:
    """The maps in float32 where they have fewer bits."""
    return HeadMaps(
        single_at_least(maps.cls_logits),
        single_at_least(maps.regression),
        None if maps.prob_logits is None else single_at_least(maps.prob_logits),
        None if maps.offsets is None else single_at_least(maps.offsets),
    )


class Predictor(Protocol):
    """A module that predicts the maps of one level, such as `THead`."""

    def init_weights(self) -> None:
        """Draw the weights."""

    def __call__(self, x: Tensor) -> HeadMaps:
        """Predictions of one level from its pyramid features [B, in_channels, H, W]."""


def conv_tower(
    layers: int,
    in_channels: int,
    channels: int,
    conv_cfg: dict | None,
    norm_cfg: dict | None,
    num_dcn: int = 0,
) -> nn.ModuleList:
    """A stack of 3x3 convolutions with normalisation and relu, the first `num_dcn` deformable."""
    dcn = dict(type="tood.ModulatedDeformConv2d", deform_groups=DEFORM_GROUPS)
    return nn.ModuleList(
        ConvModule(
            channels if i else in_channels,
            channels,
            3,
            padding=1,
            conv_cfg=dcn if i < num_dcn else conv_cfg,
            norm_cfg=norm_cfg,
        )
        for i in range(layers)
    )


class AlignmentMaps(nn.Module):
    """The probability map M (Eq. 7) and the offset map O (Eq. 8) from interactive features.

    Args:
        in_channels: of the features.
        hidden_channels: after the 1x1 reduction.
        with_offsets: False leaves O out.
    """

    def __init__(self, in_channels: int, hidden_channels: int, with_offsets: bool = True) -> None:
        super().__init__()

        def reduce_then_predict(out_channels: int) -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(in_channels, hidden_channels, 1),
                nn.ReLU(inplace=True),
                nn.Conv2d(hidden_channels, out_channels, 3, padding=1),
            )

        self.probability = reduce_then_predict(1)
        self.offset = reduce_then_predict(4 * 2) if with_offsets else None

    def init_weights(self) -> None:
        """Draw the weights as the released code does."""
        normal_init(self.probability[0], std=0.01)
        normal_init(self.probability[2], std=0.01, bias=bias_init_with_prob(PRIOR_PROBABILITY))
        if self.offset is not None:
            normal_init(self.offset[0], std=0.001)
            normal_init(self.offset[2], std=0.001)

    def forward(self, inter: Tensor) -> tuple[Tensor, Tensor | None]:
        """[B, in_channels, H, W] to M's logits [B, 1, H, W] and O [B, 8, H, W]."""
        return self.probability(inter), None if self.offset is None else self.offset(inter)

    def kernel(self) -> Tensor:
        """Weights of all 1x1 reductions, one after another: [hidden, in_channels]."""
        return torch.cat([reduce.weight.flatten(1) for reduce, _ in self._branches()])

    def finish(self, hidden: Tensor) -> tuple[Tensor, Tensor | None]:
        """`forward` from the product of kernel and features on: [B, hidden, H, W] to M's logits and O."""
        maps: list[Tensor] = []
        branches = self._branches()
        for (reduce, rest), part in zip(branches, hidden.chunk(len(branches), 1), strict=True):
            bias = cast(Tensor, reduce.bias)
            maps.append(rest(part + bias.view(1, -1, 1, 1)))
        return maps[0], maps[1] if self.offset is not None else None

    def _branches(self) -> list[tuple[nn.Conv2d, nn.Module]]:
        """The 1x1 reduction of each map, and what comes after it."""
        maps = [self.probability] if self.offset is None else [self.probability, self.offset]
        return [(cast(nn.Conv2d, branch[0]), branch[1:]) for branch in maps]


class THead(nn.Module):
    """A single tower of N layers whose features two task-aligned predictors share.

    Args:
        num_classes: of objects, without background.
        in_channels: of the pyramid features.
        feat_channels: C, of each tower layer.
        layers: N.
        conv_cfg: mmcv configuration of the tower's convolutions.
        norm_cfg: mmcv normalisation of tower and reduction convolutions.
        num_dcn: first layers of the tower that are deformable (Table 5).
        regression_channels: 4, but for hosts that do not predict boxes directly.
        aligns_boxes: False leaves O out, for the same hosts.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        feat_channels: int,
        layers: int,
        conv_cfg: dict | None,
        norm_cfg: dict | None,
        num_dcn: int = 0,
        regression_channels: int = 4,
        aligns_boxes: bool = True,
    ) -> None:
        super().__init__()
        self.tower = conv_tower(layers, in_channels, feat_channels, conv_cfg, norm_cfg, num_dcn)
        self.cls_decomposition = TaskDecomposition(feat_channels, layers, norm_cfg)
        self.reg_decomposition = TaskDecomposition(feat_channels, layers, norm_cfg)
        self.cls_conv = nn.Conv2d(feat_channels, num_classes, 3, padding=1)
        self.reg_conv = nn.Conv2d(feat_channels, regression_channels, 3, padding=1)
        self.alignment = AlignmentMaps(feat_channels * layers, feat_channels // 4, aligns_boxes)

    def init_weights(self) -> None:
        """Draw the weights as the released code does."""
        for layer in self.tower:
            normal_init(layer.conv, std=0.01)
        for part in (self.cls_decomposition, self.reg_decomposition, self.alignment):
            part.init_weights()
        normal_init(self.cls_conv, std=0.01, bias=bias_init_with_prob(PRIOR_PROBABILITY))
        normal_init(self.reg_conv, std=0.01)

    def forward(self, x: Tensor) -> HeadMaps:
        """Predictions of one level from its pyramid features [B, in_channels, H, W]."""
        layers = []
        for conv in self.tower:  # Eq. 1
            x = conv(x)
            layers.append(x)
        pooled = torch.cat([F.adaptive_avg_pool2d(layer, 1) for layer in layers], 1)  # [B, N*C, 1, 1]
        # The 1x1 convolutions over the interactive features (Eq. 4, 7 and 8) are one product, which reads
        # each layer once and needs no copy of all layers side by side.
        kernels = [
            self.cls_decomposition.kernel(pooled),
            self.reg_decomposition.kernel(pooled),
            self.alignment.kernel().expand(x.shape[0], -1, -1),
        ]
        product = product_with_layers(torch.cat(kernels, 1), layers)
        cls, reg, hidden = product.split_with_sizes([kernel.shape[1] for kernel in kernels], 1)
        prob_logits, offsets = self.alignment.finish(hidden)
        return HeadMaps(
            self.cls_conv(self.cls_decomposition.finish(cls)),
            self.reg_conv(self.reg_decomposition.finish(reg)),
            prob_logits,
            offsets,
        )


def product_with_layers(kernel: Tensor, layers: list[Tensor]) -> Tensor:
    """A 1x1 convolution over layers side by side, as a sum of products, one for each layer.

    Args:
        kernel: [B, O, N * C], own weights for each image.
        layers: N of [B, C, H, W].

    Returns:
        [B, O, H, W]
    """
    first, *others = zip(kernel.chunk(len(layers), 2), layers, strict=True)
    total = torch.bmm(first[0], first[1].flatten(2))  # [B, O, H*W]
    for part, layer in others:
        # Under autocast the product has another type than what it is of
        total = total.baddbmm_(part.to(total.dtype), layer.flatten(2).to(total.dtype))
    return total.unflatten(2, layers[0].shape[2:])
