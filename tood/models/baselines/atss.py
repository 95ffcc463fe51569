"""mmdet's ATSS head with this package's prediction path; anchor-free by `tood.PointBBoxCoder`."""

from typing import Any

from mmdet.models.dense_heads import ATSSHead as MMDetATSSHead
from mmengine.structures import InstanceData
from torch import Tensor

from tood.models.common.anchor_boxes import AnchorBoxesMixin, assign_inside, rows_of_anchors
from tood.models.common.dense_level import DenseLevel
from tood.models.common.registry import MODELS
from tood.models.common.towers import TowersMixin


@MODELS.register_module()
class ATSSHead(TowersMixin, AnchorBoxesMixin, MMDetATSSHead):
    """Parallel head + ATSS (Tables 1, 2, 3, 5 and 6); configuration as mmdet's `ATSSHead`.

    `tood.PointBBoxCoder` makes it anchor-free and learns its unit from the anchor generator.

    Args:
        conv_bias, dcn_on_last_conv: as in the authors' code, see `TowersMixin`.
    """

    def __init__(
        self,
        *args: Any,
        anchor_generator: dict,
        bbox_coder: dict,
        conv_bias: bool = False,
        dcn_on_last_conv: bool = False,
        **kwargs: Any,
    ) -> None:
        self.conv_bias = conv_bias
        self.dcn_on_last_conv = dcn_on_last_conv
        if bbox_coder["type"] == "tood.PointBBoxCoder":
            bbox_coder = {**bbox_coder, "anchor_scale": anchor_generator["octave_base_scale"]}
        super().__init__(*args, anchor_generator=anchor_generator, bbox_coder=bbox_coder, **kwargs)

    def _assign(self, levels: list[DenseLevel], priors: list[Tensor], gt: InstanceData, meta: dict) -> Tensor:
        inside = self._inside([level.grid for level in levels], priors, meta)
        return assign_inside(self.assigner, priors, inside, gt, by_level=True)

    def _dense_level(self, level: int, outs: tuple[Tensor, ...], priors: Tensor) -> DenseLevel:
        dense = super()._dense_level(level, outs[:2], priors)
        if len(outs) == 2:  # without centerness
            return dense
        return dense._replace(confidence=dense.scores * rows_of_anchors(outs[2], 1).sigmoid())
