"""GFL: mmdet's `gfl_r50_fpn_1x_coco`, trained as the authors do (implus/GFocal, `configs/gfl_r50_1x.py`)."""

_base_ = "_base_/r50_fpn.py"

model = dict(
    type="GFL",
    bbox_head=dict(
        type="tood.GFLHead",
        num_classes=80,
        in_channels=256,
        stacked_convs=4,
        feat_channels=256,
        reg_max=16,
        norm_cfg=dict(type="GN", num_groups=32, requires_grad=True),
        anchor_generator=dict(
            type="AnchorGenerator",
            ratios=[1.0],
            octave_base_scale=8,
            scales_per_octave=1,
            strides=[8, 16, 32, 64, 128],
        ),
        loss_cls=dict(type="tood.QualityFocalLoss", use_sigmoid=True, beta=2.0, loss_weight=1.0),
        loss_dfl=dict(type="tood.DistributionFocalLoss", loss_weight=0.25),
        loss_bbox=dict(type="tood.GIoULoss", loss_weight=2.0),
    ),
    train_cfg=dict(
        assigner=dict(type="tood.ATSSAssigner", topk=9), allowed_border=-1, pos_weight=-1, debug=False
    ),
)
train = dict(replica=2, warmup_factor=1 / 3, bias_lr_mult=2.0, bias_decay_mult=0.0)
