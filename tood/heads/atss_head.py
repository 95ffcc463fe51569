"""mmdet's ATSS head with this package's prediction path; anchor-free by `tood.PointBBoxCoder`."""

from mmdet.models.dense_heads import ATSSHead as MMDetATSSHead
from torch import Tensor

from tood.box_codecs import anchor_centres
from tood.dense import DenseLevel
from tood.heads.dense_prediction import DensePredictionMixin
from tood.registry import MODELS


@MODELS.register_module()
class ATSSHead(DensePredictionMixin, MMDetATSSHead):
    """Parallel head + ATSS (Tables 1, 2, 3 and 6); configuration as mmdet's `ATSSHead`.

    `tood.PointBBoxCoder` makes it anchor-free and learns its unit from the anchor generator.
    """

    def __init__(self, *args, anchor_generator: dict, bbox_coder: dict, **kwargs) -> None:
        if bbox_coder["type"] == "tood.PointBBoxCoder":
            bbox_coder = {**bbox_coder, "anchor_scale": anchor_generator["octave_base_scale"]}
        super().__init__(*args, anchor_generator=anchor_generator, bbox_coder=bbox_coder, **kwargs)

    def _dense_level(self, level: int, outs: tuple[Tensor, ...], priors: Tensor) -> DenseLevel:
        cls_logits, regression, centerness = outs
        scores = cls_logits.flatten(1).T.sigmoid()  # [H*W, C]
        return DenseLevel(
            scores,
            scores * centerness.flatten(1).T.sigmoid(),  # [H*W, C] * [H*W, 1]
            self.bbox_coder.decode(priors, regression.flatten(1).T),  # [H*W, 4]
            anchor_centres(priors),
            tuple(cls_logits.shape[-2:]),
            self.prior_generator.strides[level][0],
        )
