"""TOOD with ResNet-101, as released (`tood_r101_fpn_ms-2x_coco`)."""

_base_ = "tood.py"

model = dict(backbone=dict(depth=101, init_cfg=dict(type="Pretrained", checkpoint="torchvision://resnet101")))
input = dict(train_short_sides=dict(range=(480, 800)))
train = dict(replica=2)  # of 8 GPUs
