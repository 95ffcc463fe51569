"""SAPD with ResNet-101: 24 epochs and jitter as the GFL paper says of it; 640 to 800 is believed."""

_base_ = "sapd.py"

model = dict(backbone=dict(depth=101, init_cfg=dict(type="Pretrained", checkpoint="torchvision://resnet101")))
input = dict(train_short_sides=dict(range=(640, 800)))
