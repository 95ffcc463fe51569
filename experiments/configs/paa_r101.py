"""PAA with ResNet-101, trained and tested as by its authors: their `paa_R_101_FPN_2x` (kkhoot/PAA).

Their README says that all is as in ATSS but for the method, and the code is ATSS's; the head is that of
`paa.py`. In testing the threshold is on the score of the class alone, and there is score voting.
"""

_base_ = "atss_r101.py"

model = dict(
    type="PAA",
    bbox_head=dict(
        type="tood.PAAReleasedHead",
        use_iou_pred=True,
        reg_decoded_bbox=True,
        topk=9,
        loss_bbox=dict(loss_weight=1.3),
        loss_centerness=dict(loss_weight=0.5),
    ),
    train_cfg=dict(
        assigner=dict(
            _delete_=True,
            type="tood.OwnBestIoUAssigner",
            pos_iou_thr=0.1,
            neg_iou_thr=0.1,
            min_pos_iou=0,
            ignore_iof_thr=-1,
        )
    ),
    test_cfg=dict(score_thr_on="score", score_voting=True),
)
