"""The T-head in a head of mmdet that this package does not know: GFL, in a few lines."""

from mmdet.models.dense_heads import GFLHead
from mmdet.registry import MODELS

from tood.heads import THeadMixin


@MODELS.register_module()
class THeadGFL(THeadMixin, GFLHead):
    """GFL's targets and losses on T-head predictions.

    GFL predicts a distribution for each side of a box, which cannot be encoded again from aligned boxes:
    it goes without Eq. 6, with everything else.
    """

    aligns_boxes = False

    @property
    def regression_channels(self) -> int:
        """Four distributions over 0..reg_max."""
        return 4 * (self.reg_max + 1)
