"""VarifocalNet with ResNeXt-101-64x4d and deformable convolution, as its authors have it.

mmdet's file is `vfnet_x101-64x4d-mdconv-c3-c5_fpn_ms-2x_coco`.
"""

_base_ = "vfnet.py"

model = dict(
    backbone=dict(
        type="ResNeXt",
        depth=101,
        groups=64,
        base_width=4,
        init_cfg=dict(type="Pretrained", checkpoint="open-mmlab://resnext101_64x4d"),
        dcn=dict(type="tood.ModulatedDeformConv2d", deform_groups=1, fallback_on_stride=False),
        stage_with_dcn=(False, True, True, True),
    ),
    bbox_head=dict(dcn_on_last_conv=True),
)
input = dict(train_short_sides=dict(range=(480, 960)))
