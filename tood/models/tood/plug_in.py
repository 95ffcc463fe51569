"""The T-head as a plug-in: it replaces the towers of a host head, whose targets, losses and box code stay."""

from collections.abc import Callable

import torch
from mmcv.cnn import Scale
from mmdet.models.task_modules.coders import BaseBBoxCoder
from mmdet.models.task_modules.prior_generators import AnchorGenerator, MlvlPointGenerator
from torch import Tensor, nn

from tood.models.common.dense_level import grid_of
from tood.models.common.dense_prediction import TorchvisionNMSMixin
from tood.models.common.precision import without_autocast
from tood.models.tood.spatial_alignment import align_boxes, align_logits, keep_valid
from tood.models.tood.t_head import HeadMaps, THead, in_single


class THeadMixin(TorchvisionNMSMixin):
    """Put before a host head of mmdet: `class THeadFCOS(THeadMixin, FCOSHead)`.

    The host keeps everything but its `forward` and its NMS, which becomes torchvision's. The T-head's boxes
    are decoded, aligned (Eq. 6) and encoded again as the host's losses and tests expect them; its scores are
    aligned (Eq. 5) as logits, so that any loss on logits, and any test that takes their sigmoid, sees
    P^align. `stacked_convs` of the host counts the layers of the T-head's tower; the paper has 6.

    A host with `bbox_coder` and one anchor per location needs nothing more. Other hosts define `_decode` and
    `_encode`. A host that predicts no boxes (GFL predicts distributions) sets `aligns_boxes = False` and
    `regression_channels`, and does without Eq. 6.
    """

    # Of the host
    bbox_coder: BaseBBoxCoder
    cls_out_channels: int
    conv_cfg: dict | None
    feat_channels: int
    in_channels: int
    norm_cfg: dict | None
    prior_generator: AnchorGenerator | MlvlPointGenerator
    stacked_convs: int

    regression_channels = 4
    aligns_boxes = True

    def _init_layers(self) -> None:
        self.t_head = THead(
            num_classes=self.cls_out_channels,
            in_channels=self.in_channels,
            feat_channels=self.feat_channels,
            layers=self.stacked_convs,
            conv_cfg=self.conv_cfg,
            norm_cfg=self.norm_cfg,
            regression_channels=self.regression_channels,
            aligns_boxes=self.aligns_boxes,
        )
        self.scales = nn.ModuleList(Scale(1.0) for _ in self.prior_generator.strides)

    def init_weights(self) -> None:
        """Draw the weights as TOOD's released code does."""
        self.t_head.init_weights()

    def forward(self, feats: tuple[Tensor, ...]) -> tuple[list[Tensor], list[Tensor]]:
        """Aligned logits and encoded aligned boxes of each level, as the host's `loss_by_feat` wants them.

        Args:
            feats: levels of [B, in_channels, H, W].
        """
        levels = [self._forward_level(level, x) for level, x in enumerate(feats)]
        logits, regression = zip(*levels, strict=True)
        return list(logits), list(regression)

    def _forward_level(self, level: int, x: Tensor) -> tuple[Tensor, Tensor]:
        maps = in_single(self.t_head(x))
        with without_autocast(x):
            return self._aligned(level, maps)

    def _aligned(self, level: int, maps: HeadMaps) -> tuple[Tensor, Tensor]:
        logits, regression = maps.cls_logits, self._scaled(level, maps.regression)
        if maps.prob_logits is not None:
            logits = align_logits(logits, maps.prob_logits)
        if maps.offsets is not None:
            priors = self.prior_generator.single_level_grid_priors(
                grid_of(regression), level, dtype=regression.dtype, device=regression.device
            )
            boxes = self._decode(level, priors, regression)
            boxes = keep_valid(align_boxes(boxes, maps.offsets), boxes)
            regression = self._encode(level, priors, boxes)
        return logits, regression

    def _scaled(self, level: int, raw: Tensor) -> Tensor:
        """What the host does to its raw regression of a level, [B, K, H, W], before it is decoded."""
        return self.scales[level](raw)

    def _decode(self, level: int, priors: Tensor, regression: Tensor) -> Tensor:
        """Boxes (x1, y1, x2, y2) in pixels, [B, 4, H, W], of a level's regression [B, 4, H, W]."""
        return self._through_coder(self.bbox_coder.decode, priors, regression)

    def _encode(self, level: int, priors: Tensor, boxes: Tensor) -> Tensor:
        """The inverse of `_decode`."""
        # If offsets made a side zero, its logarithm would have no gradient to make it longer again.
        corners = torch.cat([boxes[:, :2], torch.maximum(boxes[:, 2:], boxes[:, :2] + 1e-3)], 1)
        return self._through_coder(self.bbox_coder.encode, priors, corners)

    @staticmethod
    def _through_coder(function: Callable[[Tensor, Tensor], Tensor], priors: Tensor, maps: Tensor) -> Tensor:
        B, K, H, W = maps.shape
        rows = function(priors.repeat(B, 1), maps.permute(0, 2, 3, 1).reshape(-1, K))  # [B*H*W, 4]
        return rows.view(B, H, W, 4).permute(0, 3, 1, 2)
