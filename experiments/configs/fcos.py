"""FCOS without its later improvements: mmdet's `fcos_r50-caffe_fpn_gn-head_1x_coco`."""

_base_ = "fcos_imprv.py"

model = dict(
    # Means of the checkpoint that this configuration starts from, which is Detectron's own
    data_preprocessor=dict(mean=[102.9801, 115.9465, 122.7717]),
    bbox_head=dict(
        conv_bias="auto",
        norm_on_bbox=False,
        centerness_on_reg=False,
        center_sampling=False,
        loss_bbox=dict(type="IoULoss"),
    ),
    test_cfg=dict(nms=dict(iou_threshold=0.5)),
)
train = dict(warmup="constant", grad_clip=35)
