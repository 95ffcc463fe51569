"""T-head + FoveaBox: its targets, focal loss and smooth L1, on aligned predictions."""

_base_ = "fovea.py"

model = dict(bbox_head=dict(type="tood.THeadFovea", stacked_convs=6))
