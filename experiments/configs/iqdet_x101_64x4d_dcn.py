"""IQDet, reconstructed, with deformable ResNeXt-101-64x4d: the backbone and recipe of OTA's row.

Which layers IQDet deforms, what it starts from and its sizes are not public (docs/iqdet.md).
"""

_base_ = "iqdet.py"

model = dict(
    data_preprocessor=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True),
    backbone=dict(
        type="ResNeXt",
        depth=101,
        groups=64,
        base_width=4,
        style="pytorch",
        init_cfg=dict(type="Pretrained", checkpoint="open-mmlab://resnext101_64x4d"),
        dcn=dict(type="tood.ModulatedDeformConv2d", deform_groups=1, fallback_on_stride=False),
        stage_with_dcn=(False, False, True, True),
    ),
)
input = dict(train_short_sides=dict(range=(640, 800)))
