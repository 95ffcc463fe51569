"""VarifocalNet: mmdet's `vfnet_r50_fpn_1x_coco`, which is the authors'."""

_base_ = "_base_/r50_fpn.py"

model = dict(
    type="VFNet",
    neck=dict(relu_before_extra_convs=True),
    bbox_head=dict(
        type="tood.VFNetHead",
        num_classes=80,
        in_channels=256,
        stacked_convs=3,
        feat_channels=256,
        strides=[8, 16, 32, 64, 128],
        norm_cfg=dict(type="GN", num_groups=32, requires_grad=True),
        anchor_generator=dict(
            type="AnchorGenerator",
            ratios=[1.0],
            octave_base_scale=8,
            scales_per_octave=1,
            center_offset=0.0,
            strides=[8, 16, 32, 64, 128],
        ),
        dcn_on_last_conv=False,
        loss_cls=dict(
            type="VarifocalLoss", use_sigmoid=True, alpha=0.75, gamma=2.0, iou_weighted=True, loss_weight=1.0
        ),
        loss_bbox=dict(type="tood.GIoULoss", loss_weight=1.5),
        loss_bbox_refine=dict(type="tood.GIoULoss", loss_weight=2.0),
    ),
    train_cfg=dict(
        assigner=dict(type="tood.ATSSAssigner", topk=9), allowed_border=-1, pos_weight=-1, debug=False
    ),
)
train = dict(replica=2, warmup_factor=0.1, bias_lr_mult=2.0, bias_decay_mult=0.0)
