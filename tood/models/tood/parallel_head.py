"""The conventional head, trained by TAL: Table 2's last three rows and Table 6's third."""

from typing import Any

import torch
from mmengine.model import bias_init_with_prob, normal_init
from torch import Tensor, nn

from tood.models.common.registry import MODELS
from tood.models.tood.t_head import PRIOR_PROBABILITY, AlignmentMaps, HeadMaps, conv_tower
from tood.models.tood.tood_head import TOODHead


class ParallelHead(nn.Module):
    """Two towers, one per task, as in Fig. 3(a); no centerness branch.

    Args:
        num_classes, in_channels, feat_channels, conv_cfg, norm_cfg: as `THead`.
        layers: of each tower.
        aligned: predict M and O from the last features of both towers ("TAP", caption of Table 2).
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        feat_channels: int,
        layers: int,
        conv_cfg: dict | None,
        norm_cfg: dict | None,
        aligned: bool = False,
    ) -> None:
        super().__init__()
        self.cls_tower = conv_tower(layers, in_channels, feat_channels, conv_cfg, norm_cfg)
        self.reg_tower = conv_tower(layers, in_channels, feat_channels, conv_cfg, norm_cfg)
        self.cls_conv = nn.Conv2d(feat_channels, num_classes, 3, padding=1)
        self.reg_conv = nn.Conv2d(feat_channels, 4, 3, padding=1)
        self.alignment = AlignmentMaps(2 * feat_channels, feat_channels // 4) if aligned else None

    def init_weights(self) -> None:
        """Draw the weights as `THead` does."""
        for layer in (*self.cls_tower, *self.reg_tower):
            normal_init(layer.conv, std=0.01)
        normal_init(self.cls_conv, std=0.01, bias=bias_init_with_prob(PRIOR_PROBABILITY))
        normal_init(self.reg_conv, std=0.01)
        if self.alignment is not None:
            self.alignment.init_weights()

    def forward(self, x: Tensor) -> HeadMaps:
        """Predictions of one level from its pyramid features [B, in_channels, H, W]."""
        cls = reg = x
        for layer in self.cls_tower:
            cls = layer(cls)
        for layer in self.reg_tower:
            reg = layer(reg)
        maps = self.alignment(torch.cat([cls, reg], 1)) if self.alignment else (None, None)
        return HeadMaps(self.cls_conv(cls), self.reg_conv(reg), *maps)


@MODELS.register_module()
class ParallelTALHead(TOODHead):
    """TAL on a parallel head; everything but the predictor is `TOODHead`.

    Args:
        aligned: with the alignment maps of Eq. 7 and 8 ("TAL + TAP" in Table 2).
        others: as `TOODHead`; `stacked_convs` counts the layers of each tower.
    """

    def __init__(self, *args: Any, aligned: bool = False, **kwargs: Any) -> None:
        self.aligned = aligned
        super().__init__(*args, **kwargs)

    def _build_predictor(self, **kwargs: Any) -> ParallelHead:
        return ParallelHead(**kwargs, aligned=self.aligned)
