"""TOOD with ResNeXt-101-64x4d and deformable convolution, as released.

mmdet's file is `tood_x101-64x4d-dconv-c4-c5_fpn_ms-2x_coco`.
"""

_base_ = "tood_x101_64x4d.py"

model = dict(
    backbone=dict(
        dcn=dict(type="tood.ModulatedDeformConv2d", deform_groups=1, fallback_on_stride=False),
        stage_with_dcn=(False, False, True, True),
    ),
    bbox_head=dict(num_dcn=2),
)
