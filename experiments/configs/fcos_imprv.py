"""Parallel head + FCOS with improvements, as mmdet has it.

Its `fcos_r50-caffe_fpn_gn-head-center-normbbox-centeronreg-giou_1x_coco`: parameters and FLOPs of
Table 1 are exactly those of this configuration (Caffe backbone, BN not trained).
"""

_base_ = "_base_/r50_fpn.py"

model = dict(
    type="FCOS",
    data_preprocessor=dict(mean=[103.530, 116.280, 123.675], std=[1.0, 1.0, 1.0], bgr_to_rgb=False),
    backbone=dict(
        norm_cfg=dict(type="BN", requires_grad=False),
        style="caffe",
        init_cfg=dict(type="Pretrained", checkpoint="open-mmlab://detectron2/resnet50_caffe"),
    ),
    neck=dict(relu_before_extra_convs=True),
    bbox_head=dict(
        type="tood.FCOSHead",
        num_classes=80,
        in_channels=256,
        stacked_convs=4,
        feat_channels=256,
        norm_cfg=dict(type="GN", num_groups=32, requires_grad=True),
        conv_bias=True,
        strides=[8, 16, 32, 64, 128],
        norm_on_bbox=True,
        centerness_on_reg=True,
        dcn_on_last_conv=False,
        center_sampling=True,
        loss_cls=dict(type="tood.FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type="tood.GIoULoss", loss_weight=1.0),
        loss_centerness=dict(type="CrossEntropyLoss", use_sigmoid=True, loss_weight=1.0),
    ),
)
train = dict(warmup_factor=1 / 3, bias_lr_mult=2.0, bias_decay_mult=0.0)
