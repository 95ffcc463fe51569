"""GFL with ResNeXt-101-32x4d and deformable convolution: the authors' `gfl_dcn_x101_ms2x` (implus/GFocal).

Its layers are modulated (version 2) and in stages 3 to 5; those of mmdet's
`gfl_x101-32x4d-dconv-c4-c5_fpn_ms-2x_coco` are not, and in stages 4 and 5.
"""

_base_ = "gfl_x101_32x4d.py"

model = dict(
    backbone=dict(
        dcn=dict(type="tood.ModulatedDeformConv2d", deform_groups=1, fallback_on_stride=False),
        stage_with_dcn=(False, True, True, True),
    )
)
