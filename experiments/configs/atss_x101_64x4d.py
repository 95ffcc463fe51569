"""ATSS with ResNeXt-101-64x4d, trained as by its authors but for the initial weights.

Their `atss_X_101_64x4d_FPN_2x` starts from FAIR's `X-101-64x4d.pkl` of 2017, which no index of mmengine has.
Here it is the file that mmdet's own configurations name, with the input that belongs to it.
"""

_base_ = "atss_r101.py"

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
