"""RetinaNet + NoisyAnchor with ResNet-101: the released `retinanet_R_101_FPN_3x_noisyanchor.yaml`.

8 images at a rate of .005 for 540,000 iterations, which are 36.8 epochs. Backbone, pyramid, warm-up and
normalisation without weight decay are those of Detectron2, which the release is built on.
"""

_base_ = "noisy_anchor.py"

model = dict(
    data_preprocessor=dict(mean=[103.530, 116.280, 123.675], std=[1.0, 1.0, 1.0], bgr_to_rgb=False),
    backbone=dict(
        depth=101,
        norm_cfg=dict(type="BN", requires_grad=False),
        style="caffe",
        init_cfg=dict(type="Pretrained", checkpoint="open-mmlab://detectron2/resnet101_caffe"),
    ),
    neck=dict(relu_before_extra_convs=True),
)
input = dict(train_short_sides=dict(choices=[640, 672, 704, 736, 768, 800]))
train = dict(batch_size=8, lr=0.005, warmup_iterations=1000, norm_decay_mult=0.0)
