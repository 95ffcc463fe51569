"""RetinaNet + PISA: mmdet's `retinanet-r50_fpn_pisa_1x_coco`."""

_base_ = "retinanet.py"

model = dict(
    bbox_head=dict(
        type="tood.PISARetinaHead",
        loss_bbox=dict(_delete_=True, type="SmoothL1Loss", beta=0.11, loss_weight=1.0),
    ),
    train_cfg=dict(isr=dict(k=2.0, bias=0.0), carl=dict(k=1.0, bias=0.2)),
)
