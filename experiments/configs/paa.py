"""Parallel head + PAA with IoU prediction: mmdet's `paa_r50_fpn_1.5x_coco`, without score voting."""

_base_ = "atss.py"

model = dict(
    type="PAA",
    bbox_head=dict(
        type="tood.PAAHead",
        use_iou_pred=True,
        reg_decoded_bbox=True,
        topk=9,
        loss_bbox=dict(loss_weight=1.3),
        loss_centerness=dict(loss_weight=0.5),
    ),
    train_cfg=dict(
        assigner=dict(
            _delete_=True,
            type="MaxIoUAssigner",
            pos_iou_thr=0.1,
            neg_iou_thr=0.1,
            min_pos_iou=0,
            ignore_iof_thr=-1,
        )
    ),
    test_cfg=dict(score_thr_on="confidence"),
)
train = dict(replica=2)  # of 8 GPUs
