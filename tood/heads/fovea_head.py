"""mmdet's FoveaBox head with this package's prediction path, and the T-head in it (Table 1)."""

import torch
from mmdet.models.dense_heads import FoveaHead as MMDetFoveaHead
from mmdet.structures.bbox import distance2bbox
from mmengine.structures import InstanceData
from torch import Tensor

from tood.dense import DenseLevel, grid_of
from tood.heads.dense_prediction import DensePredictionMixin
from tood.heads.fcos_head import name_objects
from tood.heads.plug_in import THeadMixin
from tood.registry import MODELS

# FoveaBox learns the logarithm of distances in units of the level's base edge, clamped to this range.
SHORTEST, LONGEST = 1 / 16, 16.0


@MODELS.register_module()
class FoveaHead(DensePredictionMixin, MMDetFoveaHead):
    """Parallel head + FoveaBox; configuration as mmdet's `FoveaHead`."""

    def _assign(self, levels: list[DenseLevel], priors: list[Tensor], gt: InstanceData, meta: dict) -> Tensor:
        labels, _ = self._get_targets_single(
            name_objects(gt, self.num_classes), [level.grid for level in levels], priors
        )
        return torch.cat([level.flatten() for level in labels]) - self.num_classes - 1

    def _dense_level(self, level: int, outs: tuple[Tensor, ...], priors: Tensor) -> DenseLevel:
        cls_logits, regression = outs
        scores = cls_logits.flatten(1).T.sigmoid()  # [H*W, C]
        distances = regression.flatten(1).T.exp() * self.base_edge_list[level]  # [H*W, 4]
        return DenseLevel(
            scores,
            scores,
            distance2bbox(priors, distances),
            priors,
            grid_of(cls_logits),
            self.prior_generator.strides[level][0],
        )


@MODELS.register_module()
class THeadFovea(THeadMixin, FoveaHead):
    """FoveaBox's targets, focal loss and smooth L1 on T-head predictions.

    The paper does not say in which form aligned boxes meet FoveaBox's loss. Here they are encoded again
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
