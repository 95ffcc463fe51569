"""PAA with ResNeXt-101-64x4d, trained and tested as by its authors but for the initial weights.

Their file is `paa_X_101_FPN_2x`. The initial weights are those of `atss_x101_64x4d.py`, for the reason given
there, with their input.
"""

_base_ = "paa_r101.py"

model = dict(
    data_preprocessor=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True),
    backbone=dict(
        type="ResNeXt",
        groups=64,
        base_width=4,
        style="pytorch",
        init_cfg=dict(type="Pretrained", checkpoint="open-mmlab://resnext101_64x4d"),
    ),
)
