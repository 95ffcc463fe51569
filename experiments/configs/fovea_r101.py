"""FoveaBox with ResNet-101: mmdet's `fovea_r101_fpn_4xb4-2x_coco` with the jitter of its `ms-640-800` files.

Its authors' jitter is a choice of two sizes, as mmdet's, and the clipping and the warm-up are theirs
(taokong/FoveaBox, `configs/foveabox`). Towers have no GroupNorm, unlike those of Table 1.
"""

_base_ = "fovea.py"

model = dict(
    backbone=dict(depth=101, init_cfg=dict(type="Pretrained", checkpoint="torchvision://resnet101")),
    bbox_head=dict(norm_cfg=None, conv_bias="auto"),
)
input = dict(train_short_sides=dict(choices=[640, 800]))
train = dict(warmup_factor=1 / 3, grad_clip=35)
