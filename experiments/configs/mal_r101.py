"""RetinaNet + MAL with ResNet-101: the authors' `free_anchor_R-101-FPN_j2x_FIA_T2_v2.yaml`.

The file is in the history of DeLightCMU/MAL. Bags have 50 anchors, where its file for ResNet-50 has 40. P6 is
made from P5, biases have twice the rate and no decay, as in the code that the release is built on.
"""

_base_ = "mal.py"

model = dict(
    data_preprocessor=dict(mean=[102.9801, 115.9465, 122.7717], std=[1.0, 1.0, 1.0], bgr_to_rgb=False),
    backbone=dict(
        depth=101,
        norm_cfg=dict(type="BN", requires_grad=False),
        style="caffe",
        init_cfg=dict(type="Pretrained", checkpoint="open-mmlab://detectron2/resnet101_caffe"),
    ),
    neck=dict(add_extra_convs="on_output", relu_before_extra_convs=True),
    bbox_head=dict(
        pre_anchor_topk=50,
        anchor_generator=dict(type="tood.RoundedAnchorGenerator", center_offset=0.5),
    ),
)
input = dict(train_short_sides=dict(choices=[640, 672, 704, 736, 768, 800]))
train = dict(warmup_factor=1 / 3, bias_lr_mult=2.0, bias_decay_mult=0.0, grad_clip=None)
