"""SAPD with ResNeXt-101-64x4d and deformable convolution; modulated and in stages 4 and 5 by choice."""

_base_ = "sapd_x101_64x4d.py"

model = dict(
    backbone=dict(
        dcn=dict(type="tood.ModulatedDeformConv2d", deform_groups=1, fallback_on_stride=False),
        stage_with_dcn=(False, False, True, True),
    )
)
