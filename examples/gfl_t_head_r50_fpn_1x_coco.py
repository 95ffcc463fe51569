"""mmdet's GFL with a T-head: `mim train mmdet examples/gfl_t_head_r50_fpn_1x_coco.py`."""

_base_ = "mmdet::gfl/gfl_r50_fpn_1x_coco.py"

custom_imports = dict(imports=["examples.gfl_t_head"])
model = dict(bbox_head=dict(type="THeadGFL", stacked_convs=6))
