"""Parallel head + TAL, anchor-free, without centerness: Table 2's TAL and Table 6's third row."""

_base_ = "tood.py"

model = dict(bbox_head=dict(type="tood.ParallelTALHead", stacked_convs=4))
