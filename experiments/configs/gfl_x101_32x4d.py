"""GFL with ResNeXt-101-32x4d: the authors' `gfl_x101_32x4d_ms2x` (implus/GFocal)."""

_base_ = "gfl_r101.py"

model = dict(
    backbone=dict(
        type="ResNeXt",
        groups=32,
        base_width=4,
        init_cfg=dict(type="Pretrained", checkpoint="open-mmlab://resnext101_32x4d"),
    )
)
