"""TOOD: T-head + TAL, anchor-free, as released (`tood_r50_fpn_1x_coco`)."""

_base_ = "_base_/r50_fpn.py"

model = dict(
    type="tood.TOOD",
    bbox_head=dict(
        type="tood.TOODHead",
        num_classes=80,
        in_channels=256,
        stacked_convs=6,
        feat_channels=256,
        norm_cfg=dict(type="GN", num_groups=32, requires_grad=True),
        anchor_type="anchor_free",
        anchor_generator=dict(
            type="AnchorGenerator",
            ratios=[1.0],
            octave_base_scale=8,
            scales_per_octave=1,
            strides=[8, 16, 32, 64, 128],
        ),
        initial_loss_cls=dict(gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_cls=dict(beta=2.0, loss_weight=1.0),
        loss_bbox=dict(type="tood.GIoULoss", loss_weight=2.0),
    ),
    train_cfg=dict(
        initial_epoch=4,
        initial_assigner=dict(type="tood.ATSSAssigner", topk=9),
        assigner=dict(topk=13),
        alpha=1.0,
        beta=6.0,
        allowed_border=-1,
        pos_weight=-1,
    ),
)
