"""GFL (Table 5): mmdet's head with this suite's prediction path."""

from mmdet.models.dense_heads import GFLHead as MMDetGFLHead
from mmengine.structures import InstanceData
from torch import Tensor

from tood.models.common.anchor_boxes import AnchorBoxesMixin, assign_inside, rows_of_anchors
from tood.models.common.box_coders import anchor_centres
from tood.models.common.dense_level import DenseLevel, grid_of
from tood.models.common.registry import MODELS


@MODELS.register_module()
class GFLHead(AnchorBoxesMixin, MMDetGFLHead):
    """Parallel head whose score is the IoU and whose distances are distributions; configuration as mmdet's.

    Li et al., "Generalized Focal Loss", NeurIPS 2020. Positives are those of ATSS.

    Two things are otherwise in the authors' code, which is older than mmdet's (implus/GFocal,
    `mmdet/models/anchor_heads/gfl_head.py`): in the IoU that is the target, boxes are one cell wider and
    higher than their corners say; and box losses are divided by the sum of their weights however small it is.
    """

    def _assign(self, levels: list[DenseLevel], priors: list[Tensor], gt: InstanceData, meta: dict) -> Tensor:
        inside = self._inside([level.grid for level in levels], priors, meta)
        return assign_inside(self.assigner, priors, inside, gt, by_level=True)

    def _dense_level(self, level: int, outs: tuple[Tensor, ...], priors: Tensor) -> DenseLevel:
        cls_logits, distributions = outs  # [C, H, W], [4 * (reg_max + 1), H, W]
        scores = rows_of_anchors(cls_logits, self.cls_out_channels).sigmoid()  # [H*W, C]
        stride = self.prior_generator.strides[level][0]
        centres = anchor_centres(priors)  # [H*W, 2]
        distances = self.integral(distributions.permute(1, 2, 0)) * stride  # [H*W, 4]
        boxes = self.bbox_coder.decode(centres, distances)
        return DenseLevel(scores, scores, boxes, centres, grid_of(cls_logits), stride)
