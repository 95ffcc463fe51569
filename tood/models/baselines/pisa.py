"""PISA (Table 2): RetinaNet's positives weighted by their rank; mmdet's head with our prediction path."""

from mmdet.models.dense_heads import PISARetinaHead as MMDetPISAHead

from tood.models.common.anchor_boxes import AnchorBoxesMixin
from tood.models.common.divisors import Divisors
from tood.models.common.registry import MODELS


@MODELS.register_module()
class PISARetinaHead(AnchorBoxesMixin, MMDetPISAHead):
    """RetinaNet's positives, weighted by their rank (PISA); configuration as mmdet's."""

    divisors = Divisors.NONE
