"""RetinaNet + FreeAnchor: mmdet's `freeanchor_r50_fpn_1x_coco`."""

_base_ = "retinanet.py"

model = dict(
    bbox_head=dict(
        type="tood.FreeAnchorHead",
        pre_anchor_topk=50,
        bbox_thr=0.6,
        gamma=2.0,
        alpha=0.5,
        bbox_coder=dict(target_stds=[0.1, 0.1, 0.2, 0.2]),
        loss_bbox=dict(_delete_=True, type="SmoothL1Loss", beta=0.11, loss_weight=0.75),
    )
)
train = dict(grad_clip=35)
