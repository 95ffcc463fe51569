"""TOOD with ResNet-101 and deformable convolution, as released (`tood_r101-dconv-c3-c5_fpn_ms-2x_coco`)."""

_base_ = "tood_r101.py"

model = dict(
    backbone=dict(
        dcn=dict(type="tood.ModulatedDeformConv2d", deform_groups=1, fallback_on_stride=False),
        stage_with_dcn=(False, True, True, True),
    ),
    bbox_head=dict(num_dcn=2),
)
