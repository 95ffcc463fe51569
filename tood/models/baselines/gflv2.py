"""GFLV2 (Table 5): GFL whose score is multiplied by a quality, predicted from its distributions."""

from typing import Any

import torch
from torch import Tensor, nn

from tood.models.baselines.gfl import GFLHead
from tood.models.common.registry import MODELS


def distribution_statistics(logits: Tensor, bins: int, topk: int) -> Tensor:
    """Statistics of each side's distribution: its largest probabilities, falling, then their mean.

    The released code's order of channels: (left, top, right, bottom), each (first, ..., k-th, mean). The mean
    is over these k; over all bins it would be constant.

    Args:
        logits: [B, 4 * bins, H, W].
        bins: of each side's distribution.
        topk: k, at most `bins`.

    Returns:
        [B, 4 * (k + 1), H, W]
    """
    probabilities = logits.unflatten(1, (4, bins)).softmax(2)  # [B, 4, bins, H, W]
    largest = probabilities.topk(topk, dim=2).values  # [B, 4, k, H, W]
    return torch.cat([largest, largest.mean(2, keepdim=True)], 2).flatten(1, 2)


def product_logits(a: Tensor, b: Tensor) -> Tensor:
    """The logit of sigmoid(a) * sigmoid(b), without ever forming the product; shapes broadcast.

    1 / product - 1 = exp(-a) + exp(-b) + exp(-a - b); finite, with a finite gradient, for any finite logits.
    """
    return -torch.logaddexp(torch.logaddexp(-a, -b), -a - b)


@MODELS.register_module()
class GFLV2Head(GFLHead):
    """GFL with a Distribution-Guided Quality Predictor; configuration as `GFLHead` and the arguments below.

    Li et al., "Generalized Focal Loss V2", CVPR 2021; numbers and names of parameters are those of its
    release (implus/GFocalV2, `configs/gfocal` and `mmdet/models/dense_heads/gfocal_head.py`), so that its
    checkpoints load. The gradient of the score reaches the distributions through their statistics.

    The release trains and ranks by the product sigmoid(class) * quality and writes every formula of GFL again
    for probabilities. Here the head predicts the logit of this product. The formulas of GFL then hold as they
    are, with the same values, and the loss stays exact where the product rounds to 0 or 1.

    Args:
        reg_topk: largest probabilities of each side that the quality depends on.
        reg_channels: hidden channels of its predictor.
    """

    def __init__(self, *args: Any, reg_topk: int, reg_channels: int, **kwargs: Any) -> None:
        self.reg_topk = reg_topk
        self.reg_channels = reg_channels
        super().__init__(*args, **kwargs)

    def _init_layers(self) -> None:
        super()._init_layers()
        self.reg_conf = nn.Sequential(
            nn.Conv2d(4 * (self.reg_topk + 1), self.reg_channels, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(self.reg_channels, 1, 1),
        )

    def forward_single(self, x: Tensor, scale: nn.Module) -> tuple[Tensor, Tensor]:
        """Logits [B, C, H, W] of the joint score and distributions [B, 4 * (reg_max + 1), H, W]."""
        cls_logits, distributions = super().forward_single(x, scale)
        statistics = distribution_statistics(distributions, self.reg_max + 1, self.reg_topk)
        quality_logits = self.reg_conf(statistics.type_as(cls_logits))  # [B, 1, H, W]
        return product_logits(cls_logits, quality_logits), distributions
