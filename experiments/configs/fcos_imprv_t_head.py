"""T-head + FCOS with improvements: its targets and losses on aligned predictions, no centerness branch."""

_base_ = "fcos_imprv.py"

model = dict(bbox_head=dict(type="tood.THeadFCOS", stacked_convs=6))
