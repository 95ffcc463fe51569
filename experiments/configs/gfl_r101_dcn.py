"""GFL with ResNet-101 and deformable convolution: the authors' `gfl_dcn_r101_ms2x` (implus/GFocal).

Its layers are modulated (version 2); those of mmdet's `gfl_r101-dconv-c3-c5_fpn_ms-2x_coco` are not.
"""

_base_ = "gfl_r101.py"

model = dict(
    backbone=dict(
        dcn=dict(type="tood.ModulatedDeformConv2d", deform_groups=1, fallback_on_stride=False),
        stage_with_dcn=(False, True, True, True),
    )
)
