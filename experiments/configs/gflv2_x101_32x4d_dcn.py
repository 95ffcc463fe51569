"""GFLV2 with ResNeXt-101-32x4d and deformable convolution: the authors' `gfocal_x101_dcn_fpn_ms2x`.

Its layers are those of version 1 in stages 4 and 5, although the authors' README says version 2 in 3 to 5.
"""

_base_ = "gflv2.py"

model = dict(
    backbone=dict(
        type="ResNeXt",
        depth=101,
        groups=32,
        base_width=4,
        init_cfg=dict(type="Pretrained", checkpoint="open-mmlab://resnext101_32x4d"),
        dcn=dict(type="tood.DeformConv2d", deform_groups=1, fallback_on_stride=False),
        stage_with_dcn=(False, False, True, True),
    )
)
input = dict(train_short_sides=dict(range=(480, 960)))
