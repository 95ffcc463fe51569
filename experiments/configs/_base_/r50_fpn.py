"""What every ResNet-50 run of the paper shares: backbone, pyramid, input, schedule."""

model = dict(
    data_preprocessor=dict(
        type="tood.DetDataPreprocessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=32,
    ),
    backbone=dict(
        type="ResNet",
        depth=50,
        num_stages=4,
        out_indices=(0, 1, 2, 3),
        frozen_stages=1,
        norm_cfg=dict(type="BN", requires_grad=True),
        norm_eval=True,
        style="pytorch",
        init_cfg=dict(type="Pretrained", checkpoint="torchvision://resnet50"),
    ),
    neck=dict(
        type="FPN",
        in_channels=[256, 512, 1024, 2048],
        out_channels=256,
        start_level=1,
        add_extra_convs="on_output",
        num_outs=5,
    ),
    test_cfg=dict(
        nms_pre=1000,
        nms_pre_by="location",
        clip=True,
        min_bbox_size=0,
        score_thr=0.05,
        nms=dict(type="nms", iou_threshold=0.6),
        max_per_img=100,
    ),
)
input = dict(
    size=(1333, 800),  # longer and shorter side at most, pixels
    # What the second is drawn from in training: range=(low, high) or choices=[...]; empty: that of `size`
    train_short_sides=dict(),
    flip=0.5,
)
train = dict(
    batch_size=16,  # 4 GPUs x 4 images
    replica=4,  # images of one GPU there
    lr=0.01,
    momentum=0.9,
    weight_decay=1e-4,
    bias_lr_mult=1.0,
    bias_decay_mult=1.0,
    norm_decay_mult=1.0,
    warmup="linear",
    warmup_iterations=500,
    warmup_factor=0.001,
    grad_clip=None,
    precision="float32",  # "tf32": products rounded on GPUs; "bf16": the network by torch's autocast
)
