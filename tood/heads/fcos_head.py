"""mmdet's FCOS head with this package's prediction path, and the T-head in it (Table 1)."""

from typing import Any

import torch
from mmdet.models.dense_heads import FCOSHead as MMDetFCOSHead
from mmengine.structures import InstanceData
from torch import Tensor

from tood.dense import DenseLevel, grid_of
from tood.heads.dense_prediction import DensePredictionMixin
from tood.heads.plug_in import THeadMixin
from tood.registry import MODELS


def name_objects(gt: InstanceData, num_classes: int) -> InstanceData:
    """The objects with labels that tell them apart: `num_classes` + 1, + 2, ...

    mmdet's targets then say which object a point serves; its background stays `num_classes`.
    """
    names = torch.arange(len(gt), device=gt.bboxes.device) + num_classes + 1
    return InstanceData(bboxes=gt.bboxes, labels=names)


@MODELS.register_module()
class FCOSHead(DensePredictionMixin, MMDetFCOSHead):
    """Parallel head + FCOS; configuration as mmdet's `FCOSHead`."""

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


@MODELS.register_module()
class THeadFCOS(THeadMixin, FCOSHead):
    """FCOS's targets, focal loss and centerness-weighted GIoU on T-head predictions.

    Without a centerness branch, which the paper's parameter counts leave no room for. Distances are in
    strides (`norm_on_bbox`, one of the "improvements" the paper's baseline has).

    Raises:
        ValueError: `norm_on_bbox` is not set.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not self.norm_on_bbox:
            raise ValueError("THeadFCOS regresses in strides: set norm_on_bbox=True")

    def _scaled(self, level: int, raw: Tensor) -> Tensor:
        return self.scales[level](raw).clamp(min=0)

    def _decode(self, level: int, priors: Tensor, regression: Tensor) -> Tensor:
        stride = self.prior_generator.strides[level][0]
        return self._through_coder(self.bbox_coder.decode, priors, regression * stride)

    def _encode(self, level: int, priors: Tensor, boxes: Tensor) -> Tensor:
        H, W = boxes.shape[2:]
        points = priors.T.view(1, 2, H, W)  # [1, (x, y), H, W]
        distances = torch.cat([points - boxes[:, :2], boxes[:, 2:] - points], 1)
        # As in the host: strides in training, pixels in testing
        return distances / self.prior_generator.strides[level][0] if self.training else distances

    def loss_by_feat(
        self, cls_scores: list[Tensor], bbox_preds: list[Tensor], *args: Any, **kwargs: Any
    ) -> dict[str, Tensor]:
        """As the host, without the loss of the centerness it lacks."""
        nothing = [scores[:, :1].detach() for scores in cls_scores]
        losses = super().loss_by_feat(cls_scores, bbox_preds, nothing, *args, **kwargs)
        del losses["loss_centerness"]
        return losses
