"""FoveaBox (Tables 1 and 5): mmdet's head with this suite's prediction path."""

import torch
from mmdet.models.dense_heads import FoveaHead as MMDetFoveaHead
from mmdet.structures.bbox import distance2bbox
from mmengine.structures import InstanceData
from torch import Tensor

from tood.models.common.dense_level import DenseLevel, grid_of
from tood.models.common.dense_prediction import DensePredictionMixin, name_objects
from tood.models.common.divisors import Divisors
from tood.models.common.registry import MODELS


@MODELS.register_module()
class FoveaHead(DensePredictionMixin, MMDetFoveaHead):
    """Parallel head + FoveaBox; configuration as mmdet's `FoveaHead`."""

    divisors = Divisors.NONE

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
