"""TOOD with ResNeXt-101-64x4d, as released (`tood_x101-64x4d_fpn_ms-2x_coco`)."""

_base_ = "tood_r101.py"

model = dict(
    backbone=dict(
        type="ResNeXt",
        groups=64,
        base_width=4,
        init_cfg=dict(type="Pretrained", checkpoint="open-mmlab://resnext101_64x4d"),
    )
)
