"""The T-head in FCOS (Table 1)."""

from typing import Any

import torch
from torch import Tensor

from tood.models.baselines.fcos import FCOSHead
from tood.models.common.registry import MODELS
from tood.models.tood.plug_in import THeadMixin


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
