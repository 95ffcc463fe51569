"""A label assignment of your own: ATSS, then the best of its positives. CONTRIBUTING.md makes it a run."""

from typing import Any

from mmdet.models.task_modules.assigners import AssignResult, ATSSAssigner
from mmengine.structures import InstanceData

from tood.models.common.registry import TASK_UTILS


@TASK_UTILS.register_module()
class ATSSTopAssigner(ATSSAssigner):
    """Of the anchors that ATSS makes positive for an object, those with the highest IoU.

    Args:
        positives: how many anchors an object keeps at most.
        **kwargs: of mmdet's `ATSSAssigner`.
    """

    def __init__(self, positives: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.positives = positives

    def assign(
        self,
        pred_instances: InstanceData,
        num_level_priors: list[int],
        gt_instances: InstanceData,
        gt_instances_ignore: InstanceData | None = None,
    ) -> AssignResult:
        """As `ATSSAssigner.assign`; the anchors that are dropped become negative."""
        result = super().assign(pred_instances, num_level_priors, gt_instances, gt_instances_ignore)
        for number in range(1, result.num_gts + 1):  # 0 is the background
            anchors = (result.gt_inds == number).nonzero().squeeze(1)  # [P]
            by_iou = result.max_overlaps[anchors].argsort(descending=True)
            dropped = anchors[by_iou[self.positives :]]
            result.gt_inds[dropped] = 0
            result.labels[dropped] = -1
        return result
