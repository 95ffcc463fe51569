"""FCOS with improvements and ResNet-101, trained as by its authors: their `fcos_imprv_R_101_FPN_2x`.

Different from `fcos_imprv.py`, which is mmdet's: the means of the input, the constant warm-up, shorter sides
drawn from 640 to 800, and each level's 1000 pairs of point and class of highest confidence in NMS
(tianzhi0549/FCOS).
"""

_base_ = "fcos_imprv.py"

model = dict(
    data_preprocessor=dict(mean=[102.9801, 115.9465, 122.7717]),
    backbone=dict(
        depth=101,
        init_cfg=dict(type="Pretrained", checkpoint="open-mmlab://detectron2/resnet101_caffe"),
    ),
    bbox_head=dict(loss_bbox=dict(type="tood.SmoothedGIoULoss")),
    test_cfg=dict(nms_pre_by="confident_pair"),
)
input = dict(train_short_sides=dict(range=(640, 800)))
train = dict(replica=2, warmup="constant")
