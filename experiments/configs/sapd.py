"""SAPD with ResNet-50: the paper's constants as two ports by others have them; it has no code by its authors.

Backbone, input and pyramid are those of mmdet's `fsaf_r50_fpn_1x_coco`, as the method builds on FSAF, and so
is the clipping of gradients; nothing is known of SAPD's. The paper is believed to divide the rate by 10 after
9 and 11 of 12 epochs; a run has this suite's schedule, after 8 and 11.
"""

_base_ = "_base_/r50_fpn.py"

model = dict(
    type="FCOS",  # mmdet's plain single-stage detector on points
    neck=dict(add_extra_convs="on_input"),
    bbox_head=dict(
        type="tood.SAPDHead",
        num_classes=80,
        in_channels=256,
        stacked_convs=4,
        feat_channels=256,
        strides=[8, 16, 32, 64, 128],
        normaliser=4.0,
        loss_cls=dict(type="tood.FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type="tood.IoULoss", mode="log", eps=1e-6, loss_weight=1.0),
        loss_selection=dict(type="tood.CrossEntropyLoss", loss_weight=0.1),
    ),
    train_cfg=dict(
        shrink=0.2,  # of an object's sides
        eta=1.0,  # exponent of the centrality
        first_stage=0.5,  # share of the training in which an object uses one level
        top_levels=3,  # number of levels that it uses then
    ),
    test_cfg=dict(nms=dict(iou_threshold=0.5)),
)
train = dict(replica=2, grad_clip=10)  # no code says how many; 8 GPUs as the other rows of Table 5
