"""VarifocalNet (Table 5): mmdet's head with this suite's prediction path and torchvision's convolutions."""

from typing import Any

import torch
from mmdet.models.dense_heads import VFNetHead as MMDetVFNetHead
from mmdet.utils import reduce_mean
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torchvision.ops import DeformConv2d

from tood.models.common.anchor_boxes import rows_of_batch
from tood.models.common.atss_targets import ATSSTargetsMixin
from tood.models.common.dense_level import DenseLevel, grid_of
from tood.models.common.losses import at_labels
from tood.models.common.pairs import paired_iou
from tood.models.common.registry import MODELS
from tood.models.common.towers import deform_last

LEAST_IOU = 1e-6  # of a positive, as in mmdet


@MODELS.register_module()
class VFNetHead(ATSSTargetsMixin, MMDetVFNetHead):
    """FCOS's head with ATSS's positives; its score is the IoU, and it refines each box by its features.

    Zhang et al., "VarifocalNet", CVPR 2021; configuration as mmdet's `VFNetHead`, whose checkpoints load. The
    features of a box are sampled at nine points of it by a deformable convolution without offsets of its own.

    Initial weights are mmdet's. The authors' code (hyz-xmaster/VarifocalNet) draws `vfnet_reg_conv` and the
    two convolutions on boxes from N(0, 0.01), mmdet by He et al.'s rules.

    Args:
        dcn_on_last_conv: the last layer of both towers is a `ModulatedDeformConv2d`.
        use_atss: always; mmdet has FCOS's positives as another choice.

    Raises:
        ValueError: `use_atss` is not set.
    """

    def __init__(self, *args: Any, use_atss: bool = True, **kwargs: Any) -> None:
        if not use_atss:
            raise ValueError("tood.VFNetHead has the positives of ATSS alone: leave use_atss=True")
        super().__init__(*args, **kwargs)
        # A buffer goes to the device with the model; mmdet's tensor is copied in each pass.
        places = self.dcn_base_offset
        del self.dcn_base_offset
        self.register_buffer("dcn_base_offset", places, persistent=False)

    def _init_layers(self) -> None:
        super()._init_layers()
        # mmdet's head names mmcv's compiled layers itself, whatever `conv_cfg` says.
        self.vfnet_reg_refine_dconv = self._convolution_on_boxes()
        self.vfnet_cls_dconv = self._convolution_on_boxes()
        if self.dcn_on_last_conv:
            deform_last(self.cls_convs)
            deform_last(self.reg_convs)

    def _convolution_on_boxes(self) -> DeformConv2d:
        """As mmcv's `DeformConv2d`, initial weights included."""
        layer = DeformConv2d(
            self.feat_channels, self.feat_channels, self.dcn_kernel, padding=self.dcn_pad, bias=False
        )
        nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
        return layer

    def forward_single(self, x: Tensor, *args: Any) -> tuple[Tensor, ...]:
        """Logits [B, C, H, W] and distances in pixels [B, 4, H, W]: first, in training alone, and refined."""
        cls_logits, *distances = super().forward_single(x, *args)
        # mmdet converts distances to float32, which its loss cannot mix with scores in float64.
        dtype = torch.promote_types(torch.float32, cls_logits.dtype)
        return cls_logits, *(maps.to(dtype) for maps in distances)

    # mmdet's head ignores missing names, so a wrong checkpoint would load without an error.
    _load_from_state_dict = nn.Module._load_from_state_dict

    def loss_by_feat(
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        bbox_preds_refine: list[Tensor],
        batch_gt_instances: list[InstanceData],
        batch_img_metas: list[dict],
        batch_gt_instances_ignore: list[InstanceData] | None = None,
    ) -> dict[str, Tensor]:
        """`loss_cls`, `loss_bbox` and `loss_bbox_rf` of a batch, mmdet's, without waits for a GPU."""
        grids = [grid_of(scores) for scores in cls_scores]
        targets = self._targets(grids, batch_gt_instances, batch_img_metas, bbox_preds[0])
        everywhere = torch.cat(self._priors((cls_scores,)))  # [A, 2]
        points = everywhere[targets.anchors % len(everywhere)]  # [P, 2]
        gt_boxes = self.bbox_coder.decode(points, self.bbox_coder.encode(points, targets.boxes))  # [P, 4]
        boxes, weights = [], []  # first and refined
        for distances in (bbox_preds, bbox_preds_refine):
            of_pairs = targets.of_positives(rows_of_batch(distances, 4))  # [P, 4]
            boxes.append(self.bbox_coder.decode(points, of_pairs))
            iou = paired_iou(boxes[-1].detach(), gt_boxes).clamp(min=LEAST_IOU)
            weights.append(torch.where(targets.positive, iou, 0))  # [P]
        number = targets.positive.sum().to(weights[0])
        sums = reduce_mean(torch.stack([number, *(each.sum() for each in weights)])).clamp(min=1)
        logits = rows_of_batch(cls_scores, self.cls_out_channels)  # [B * A, C]
        if self.sync_num_pos:
            number = sums[0]
        if self.use_vfl:
            quality = targets.on_anchors(weights[1])  # [B * A]
            scores = at_labels(quality.to(logits), targets.labels, self.cls_out_channels)
            loss_cls = self.loss_cls(logits, scores, avg_factor=number)
        else:
            loss_cls = self.loss_cls(logits, targets.labels, weight=targets.label_weights, avg_factor=number)
        return {
            "loss_cls": loss_cls,
            "loss_bbox": self.loss_bbox(boxes[0], gt_boxes, weight=weights[0], avg_factor=sums[1]),
            "loss_bbox_rf": self.loss_bbox_refine(boxes[1], gt_boxes, weight=weights[1], avg_factor=sums[2]),
        }

    def _anchors(self, grids: list[tuple[int, int]], like: Tensor) -> list[Tensor]:
        return self.atss_prior_generator.grid_priors(grids, dtype=like.dtype, device=like.device)

    def _dense_level(self, level: int, outs: tuple[Tensor, ...], priors: Tensor) -> DenseLevel:
        cls_logits, refined = outs[0], outs[-1]  # between them, in training, the first distances
        scores = cls_logits.flatten(1).T.sigmoid()  # [H*W, C]
        return DenseLevel(
            scores,
            scores,
            self.bbox_coder.decode(priors, refined.flatten(1).T),  # [H*W, 4]
            priors,
            grid_of(cls_logits),
            self.prior_generator.strides[level][0],
        )
