"""ATSS with ResNet-101, trained as by its authors: their `atss_R_101_FPN_2x` (sfzhang15/ATSS).

Different from the runs with ResNet-50, which are mmdet's: MSRA's Caffe weights and their input, batch
normalisation not trained, biases in the towers, a relu before P7, anchors in the middle of their cells, the
warm-up, the rate of biases, shorter sides drawn from 640 to 800, and each level's 1000 pairs of anchor and
class of highest confidence in NMS. As in mmdet's file, boxes are regressed by their deltas to the anchor, and
the positives of the whole batch divide the loss. docs/paper_vs_code.md says what differs from that code.
"""

_base_ = "atss.py"

model = dict(
    data_preprocessor=dict(mean=[102.9801, 115.9465, 122.7717], std=[1.0, 1.0, 1.0], bgr_to_rgb=False),
    backbone=dict(
        depth=101,
        norm_cfg=dict(type="BN", requires_grad=False),
        style="caffe",
        init_cfg=dict(type="Pretrained", checkpoint="open-mmlab://detectron2/resnet101_caffe"),
    ),
    neck=dict(relu_before_extra_convs=True),
    bbox_head=dict(conv_bias=True, anchor_generator=dict(center_offset=0.5)),
    test_cfg=dict(nms_pre_by="confident_pair"),
)
input = dict(train_short_sides=dict(range=(640, 800)))
train = dict(replica=2, warmup="constant", warmup_factor=1 / 3, bias_lr_mult=2.0, bias_decay_mult=0.0)
