"""SAPD with ResNet-101 and deformable convolution; that it is modulated and in stages 3 to 5 is a choice."""

_base_ = "sapd_r101.py"

model = dict(
    backbone=dict(
        dcn=dict(type="tood.ModulatedDeformConv2d", deform_groups=1, fallback_on_stride=False),
        stage_with_dcn=(False, True, True, True),
    )
)
