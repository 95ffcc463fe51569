"""RetinaNet (Tables 2 and 5): mmdet's head with this suite's prediction path."""

from mmdet.models.dense_heads import RetinaHead as MMDetRetinaHead

from tood.models.common.anchor_boxes import AnchorBoxesMixin
from tood.models.common.divisors import Divisors
from tood.models.common.registry import MODELS


@MODELS.register_module()
class RetinaHead(AnchorBoxesMixin, MMDetRetinaHead):
    """RetinaNet: positives by the IoU of anchors with objects; configuration as mmdet's."""

    divisors = Divisors.NONE
