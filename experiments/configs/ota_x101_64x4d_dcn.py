"""OTA with ResNeXt-101-64x4d and deformable convolution, as the authors' README has it.

Their file is `ota.x101.dcnv2.fpn.coco.800size.1x`, which trains 12 epochs at one size; the README's row has
24, with shorter sides of 640 to 800, here any of them. No index of weights has Detectron's for this backbone
as a file of PyTorch, so it starts from mmdet's, whose images are in RGB.
"""

_base_ = "ota.py"

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
