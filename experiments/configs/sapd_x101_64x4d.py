"""SAPD with ResNeXt-101-64x4d, else as `sapd_r101`."""

_base_ = "sapd_r101.py"

model = dict(
    backbone=dict(
        type="ResNeXt",
        groups=64,
        base_width=4,
        init_cfg=dict(type="Pretrained", checkpoint="open-mmlab://resnext101_64x4d"),
    )
)
