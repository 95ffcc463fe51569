"""The detector that mmdet's Runner can tell the epoch."""

from mmdet.models.detectors import SingleStageDetector

from tood.models.common.registry import MODELS


@MODELS.register_module()
class TOOD(SingleStageDetector):
    """Backbone, FPN and a `TOODHead`, which it tells the epoch."""

    def set_epoch(self, epoch: int) -> None:
        """Tell the head which epoch, from 0, the coming losses belong to."""
        self.bbox_head.set_epoch(epoch)
