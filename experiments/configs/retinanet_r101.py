"""RetinaNet with ResNet-101, after the original paper: 1.5x schedule, jitter of the shorter side.

The original code is Detectron: its smooth L1 and biases at twice the rate without decay are believed, and the
sizes are those of mmdet's `retinanet_r50-caffe_fpn_ms-1x_coco`. The rest is mmdet's
`retinanet_r101-caffe_fpn_1x_coco`.
"""

_base_ = "retinanet.py"

model = dict(
    data_preprocessor=dict(mean=[103.530, 116.280, 123.675], std=[1.0, 1.0, 1.0], bgr_to_rgb=False),
    backbone=dict(
        depth=101,
        norm_cfg=dict(type="BN", requires_grad=False),
        style="caffe",
        init_cfg=dict(type="Pretrained", checkpoint="open-mmlab://detectron2/resnet101_caffe"),
    ),
    neck=dict(relu_before_extra_convs=True),
    bbox_head=dict(
        anchor_generator=dict(type="tood.RoundedAnchorGenerator", center_offset=0.5),
        loss_bbox=dict(_delete_=True, type="SmoothL1Loss", beta=0.11, loss_weight=1.0),
    ),
)
input = dict(train_short_sides=dict(choices=[640, 672, 704, 736, 768, 800]))
train = dict(warmup_factor=1 / 3, bias_lr_mult=2.0, bias_decay_mult=0.0)
