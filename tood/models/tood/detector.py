"""The detector for mmdet's Runner, whose hook sets the epoch."""

from mmdet.models.detectors import SingleStageDetector

from tood.models.common.registry import MODELS


@MODELS.register_module()
class TOOD(SingleStageDetector):
    """Backbone, FPN and a `TOODHead`; it passes the epoch on."""

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, from 0, that the next losses belong to."""
        self.bbox_head.set_epoch(epoch)
