"""VarifocalNet (Table 5): mmdet's head with this suite's prediction path and torchvision's convolutions."""

from typing import Any

import torch
from mmdet.models.dense_heads import VFNetHead as MMDetVFNetHead
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torchvision.ops import DeformConv2d

from tood.models.common.anchor_boxes import assign_inside
from tood.models.common.dense_level import DenseLevel, grid_of
from tood.models.common.dense_prediction import DensePredictionMixin
from tood.models.common.registry import MODELS
from tood.models.common.towers import deform_last


@MODELS.register_module()
class VFNetHead(DensePredictionMixin, MMDetVFNetHead):
    """FCOS's head with ATSS's positives, whose score is the IoU, and which refines each box by its features.

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
        # mmdet makes float32 of distances, which its loss cannot mix with scores in float64.
        dtype = torch.promote_types(torch.float32, cls_logits.dtype)
        return cls_logits, *(maps.to(dtype) for maps in distances)

    # mmdet's head loads what it finds and never misses a name, so that a wrong checkpoint would pass.
    _load_from_state_dict = nn.Module._load_from_state_dict

    def _assign(self, levels: list[DenseLevel], priors: list[Tensor], gt: InstanceData, meta: dict) -> Tensor:
        grids = [level.grid for level in levels]
        anchors = self.atss_prior_generator.grid_priors(grids, dtype=priors[0].dtype, device=priors[0].device)
        return assign_inside(self.assigner, anchors, self._inside(grids, anchors, meta), gt, by_level=True)

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
