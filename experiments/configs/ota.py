"""OTA with ResNet-50, with the constants of the authors' `ota.res50.fpn.coco.800size.1x` (40.7 AP there).

As in that file: Detectron2's weights of MSRA, whose images are in BGR with a standard deviation of 1, and
whose blocks have the stride in the first convolution; P6 from P5; towers whose convolutions have a bias
beside their normalisation, which has no weight decay; the positives of the whole batch as the divisor.
"""

_base_ = "_base_/r50_fpn.py"

model = dict(
    type="FCOS",
    data_preprocessor=dict(mean=[103.530, 116.280, 123.675], std=[1.0, 1.0, 1.0], bgr_to_rgb=False),
    backbone=dict(
        norm_cfg=dict(type="BN", requires_grad=False),
        style="caffe",
        init_cfg=dict(type="Pretrained", checkpoint="open-mmlab://detectron2/resnet50_caffe"),
    ),
    neck=dict(relu_before_extra_convs=True),
    bbox_head=dict(
        type="tood.OTAHead",
        num_classes=80,
        in_channels=256,
        stacked_convs=4,
        feat_channels=256,
        norm_cfg=dict(type="GN", num_groups=32, requires_grad=True),
        conv_bias=True,
        strides=[8, 16, 32, 64, 128],
        dcn_on_last_conv=False,
        loss_cls=dict(type="tood.FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type="tood.GIoULoss", loss_weight=2.0),
        loss_iou=dict(type="CrossEntropyLoss", use_sigmoid=True, loss_weight=0.5),
    ),
    train_cfg=dict(
        radius=2.5,  # strides
        iou_weight=1.5,  # of -log IoU in the cost
        top=20,  # number of IoUs whose sum is k
        epsilon=0.1,  # weight of the entropy
        iterations=50,
    ),
    # The threshold holds for the geometric mean of score and IoU, and pairs of a point and a class compete.
    test_cfg=dict(nms_pre_by="pair"),
)
train = dict(replica=2, warmup_iterations=1000, norm_decay_mult=0.0)
