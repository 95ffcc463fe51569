"""GFLV2: the authors' `gfocal_r50_fpn_1x` (implus/GFocalV2), which trains biases like all other weights."""

_base_ = "gfl.py"

model = dict(bbox_head=dict(type="tood.GFLV2Head", reg_topk=4, reg_channels=64))
train = dict(warmup_factor=0.001, bias_lr_mult=1.0, bias_decay_mult=1.0)
