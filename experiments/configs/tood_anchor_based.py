"""TOOD: T-head + TAL, anchor-based (`tood_r50_fpn_anchor-based_1x_coco`)."""

_base_ = "tood.py"

model = dict(
    bbox_head=dict(
        anchor_type="anchor_based",
        bbox_coder=dict(
            type="tood.DeltaXYWHBBoxCoder",
            target_means=[0.0, 0.0, 0.0, 0.0],
            target_stds=[0.1, 0.1, 0.2, 0.2],
        ),
    )
)
