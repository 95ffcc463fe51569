"""Parallel head + FoveaBox: mmdet's `fovea_r50_fpn_4xb4-1x_coco` with GroupNorm in the towers.

Only a tower with GroupNorm has the parameters of Table 1 (4.92 M in the head, 36.20 M in all).
"""

_base_ = "_base_/r50_fpn.py"

model = dict(
    type="FOVEA",
    neck=dict(add_extra_convs="on_input"),
    bbox_head=dict(
        type="tood.FoveaHead",
        num_classes=80,
        in_channels=256,
        stacked_convs=4,
        feat_channels=256,
        norm_cfg=dict(type="GN", num_groups=32, requires_grad=True),
        conv_bias=True,
        strides=[8, 16, 32, 64, 128],
        base_edge_list=[16, 32, 64, 128, 256],
        scale_ranges=[(1, 64), (32, 128), (64, 256), (128, 512), (256, 2048)],
        sigma=0.4,
        with_deform=False,
        loss_cls=dict(type="tood.FocalLoss", use_sigmoid=True, gamma=1.5, alpha=0.4, loss_weight=1.0),
        loss_bbox=dict(type="SmoothL1Loss", beta=0.11, loss_weight=1.0),
    ),
    train_cfg=dict(),
    # FoveaBox's own threshold; the paper's supplement gives .6 for TOOD and says nothing of its baselines.
    test_cfg=dict(nms=dict(iou_threshold=0.5)),
)
