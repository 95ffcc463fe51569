"""The T-head in FoveaBox (Table 1)."""

import torch
from torch import Tensor

from tood.models.baselines.foveabox import LONGEST, SHORTEST, FoveaHead
from tood.models.common.registry import MODELS
from tood.models.tood.plug_in import THeadMixin


@MODELS.register_module()
class THeadFovea(THeadMixin, FoveaHead):
    """FoveaBox's targets, focal loss and smooth L1 on T-head predictions.

    The paper does not say how aligned boxes enter FoveaBox's loss. Here they are encoded again
    as the logarithms FoveaBox learns, clamped to the range of its targets, and keep its smooth L1. The
    other defensible reading, GIoU on the boxes, is `loss_bbox=dict(type="tood.LogDistanceGIoULoss")`.
    """

    def _init_layers(self) -> None:
        super()._init_layers()
        del self.scales  # FoveaBox learns none

    def _scaled(self, level: int, raw: Tensor) -> Tensor:
        return raw

    def _decode(self, level: int, priors: Tensor, regression: Tensor) -> Tensor:
        H, W = regression.shape[2:]
        points = priors.T.view(1, 2, H, W)  # [1, (x, y), H, W]
        distances = regression.exp() * self.base_edge_list[level]
        return torch.cat([points - distances[:, :2], points + distances[:, 2:]], 1)

    def _encode(self, level: int, priors: Tensor, boxes: Tensor) -> Tensor:
        H, W = boxes.shape[2:]
        points = priors.T.view(1, 2, H, W)  # [1, (x, y), H, W]
        distances = torch.cat([points - boxes[:, :2], boxes[:, 2:] - points], 1)
        return (distances / self.base_edge_list[level]).clamp(SHORTEST, LONGEST).log()
