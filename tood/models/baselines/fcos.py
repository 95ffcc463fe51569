"""FCOS (Tables 1, 2 and 5): mmdet's head with this suite's prediction path."""

import torch
from mmdet.models.dense_heads import FCOSHead as MMDetFCOSHead
from mmengine.structures import InstanceData
from torch import Tensor

from tood.models.common.dense_level import DenseLevel, grid_of
from tood.models.common.dense_prediction import DensePredictionMixin, name_objects
from tood.models.common.registry import MODELS
from tood.models.common.towers import TowersMixin


@MODELS.register_module()
class FCOSHead(TowersMixin, DensePredictionMixin, MMDetFCOSHead):
    """Parallel head + FCOS; configuration as mmdet's `FCOSHead`.

    With `dcn_on_last_conv` the initial weights are those of the authors' code, see `TowersMixin`.
    """

    def _assign(self, levels: list[DenseLevel], priors: list[Tensor], gt: InstanceData, meta: dict) -> Tensor:
        ranges = [
            points.new_tensor(r).expand(len(points), 2)
            for r, points in zip(self.regress_ranges, priors, strict=True)
        ]
        labels, _ = self._get_targets_single(
            name_objects(gt, self.num_classes), torch.cat(priors), torch.cat(ranges), [len(p) for p in priors]
        )
        return labels - self.num_classes - 1

    def _dense_level(self, level: int, outs: tuple[Tensor, ...], priors: Tensor) -> DenseLevel:
        cls_logits, distances, *centerness = outs
        if self.norm_on_bbox and self.training:  # the forward gives strides then, pixels in testing
            distances = distances * self.prior_generator.strides[level][0]
        scores = cls_logits.flatten(1).T.sigmoid()  # [H*W, C]
        factor = centerness[0].flatten(1).T.sigmoid() if centerness else 1.0  # [H*W, 1]
        return DenseLevel(
            scores,
            scores * factor,
            self.bbox_coder.decode(priors, distances.flatten(1).T),  # [H*W, 4]
            priors,
            grid_of(cls_logits),
            self.prior_generator.strides[level][0],
        )
