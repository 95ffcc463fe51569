"""ATSS + quality focal loss: the anchor-free ATSS with the IoU as target score and no centerness."""

_base_ = "atss_anchor_free.py"

model = dict(
    bbox_head=dict(
        type="tood.ATSSQFLHead",
        loss_cls=dict(
            _delete_=True, type="tood.QualityFocalLoss", use_sigmoid=True, beta=2.0, loss_weight=1.0
        ),
    )
)
train = dict(replica=2)  # of 8 GPUs
