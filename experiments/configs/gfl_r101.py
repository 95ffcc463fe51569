"""GFL with ResNet-101: the authors' `gfl_r101_ms2x` (implus/GFocal)."""

_base_ = "gfl.py"

model = dict(backbone=dict(depth=101, init_cfg=dict(type="Pretrained", checkpoint="torchvision://resnet101")))
input = dict(train_short_sides=dict(range=(480, 800)))
