"""Detectors of Table 5 as their files have them: hard images, gradients, recipes."""

import pytest
import torch
from helpers.mmdet_heads import MMDET_CONFIGS
from helpers.point_heads import SEVERAL, SIZE, configuration, hard_cases, objects
from helpers.recipes import mmdets_names
from mmdet.registry import TASK_UTILS
from mmdet.structures import DetDataSample
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.structures import InstanceData
from torchvision.ops import generalized_box_iou_loss

from tood.engine.config import build_model
from tood.models import SmoothedGIoULoss

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
# Three levels, as the scale `smoke` has them
ANCHORS = dict(anchor_generator=dict(octave_base_scale=4, strides=[4, 8, 16]))
POINTS = dict(strides=[4, 8, 16], regress_ranges=[[-1, 16], [16, 32], [32, 1e8]])
# By the method's name, with which a file's name begins
NARROW = {
    "gfl": ANCHORS,
    "gflv2": ANCHORS,
    "vfnet": ANCHORS | POINTS,
    "atss": ANCHORS,
    "paa": ANCHORS,
    "fcos": POINTS,
}
# Name: file, and the deformable layer of its backbone if the file does not say so itself
DETECTORS = {
    "gfl": ("gfl", None),
    "gfl with DCN": ("gfl", "DeformConv2d"),
    "gflv2": ("gflv2", None),
    "gflv2 with DCN": ("gflv2", "ModulatedDeformConv2d"),
    "vfnet": ("vfnet", None),
    "vfnet with DCN": ("vfnet", "ModulatedDeformConv2d"),  # in the last layer of its towers too
    "atss_r101": ("atss_r101", None),
    "atss_r101_dcn": ("atss_r101_dcn", None),
    "atss_x101_64x4d_dcn": ("atss_x101_64x4d_dcn", None),
    "paa_r101": ("paa_r101", None),
    "paa_r101_dcn": ("paa_r101_dcn", None),
    "paa_x101_64x4d_dcn": ("paa_x101_64x4d_dcn", None),
    "fcos_imprv_r101": ("fcos_imprv_r101", None),
    "fcos_imprv_r101 with DCN": ("fcos_imprv_r101", "ModulatedDeformConv2d"),  # in its towers too
}
CROWD = objects([60, 10, 150, 70], [0, 90, 50, 120])
RECIPES = {"gfl": "gfl/gfl_r50_fpn_1x_coco.py", "vfnet": "vfnet/vfnet_r50_fpn_1x_coco.py"}


def detector(name: str):
    """Of the scale `smoke`, with the initial weights of its file."""
    file, layer = DETECTORS[name]
    config = configuration(f"{file}.py", "smoke", NARROW[file.partition("_")[0]])
    backbone = config.model.backbone
    backbone.zero_init_residual = False  # where blocks end with zeros, their weights do not learn yet
    if layer is not None:
        backbone.dcn = dict(type=f"tood.{layer}", deform_groups=1, fallback_on_stride=False)
        backbone.stage_with_dcn = (False, True, True, True)
        if "dcn_on_last_conv" in config.model.bbox_head:
            config.model.bbox_head.dcn_on_last_conv = True
    if "dcn" in backbone or backbone.type == "ResNeXt":
        backbone.depth = 50
        config.model.neck.in_channels = [64, 128, 256]
    if "dcn" in backbone:
        backbone.stage_with_dcn = backbone.stage_with_dcn[:3]
    if backbone.type == "ResNeXt":
        backbone.groups = 4
    torch.manual_seed(0)
    model = build_model(config)
    model.init_weights()
    return model


def batch(*images: tuple[InstanceData, InstanceData]) -> dict:
    """Random images with these objects and crowds."""
    generator = torch.Generator().manual_seed(0)
    inputs, samples = [], []
    for gt, crowds in images:
        sample = DetDataSample(metainfo=dict(img_shape=SIZE, ori_shape=SIZE, scale_factor=(1.0, 1.0)))
        sample.gt_instances, sample.ignored_instances = gt, crowds
        inputs.append(torch.randint(256, (3, *SIZE), generator=generator, dtype=torch.uint8))
        samples.append(sample)
    return dict(inputs=inputs, data_samples=samples)


IMAGES = {name: [(gt, objects()), (SEVERAL, objects())] for name, gt in hard_cases().items()} | {
    "all empty": [(objects(), objects())] * 2,
    "crowds beside objects": [(SEVERAL, CROWD)] * 2,
    "crowds alone": [(objects(), CROWD)] * 2,
    "alone and tiny": [(hard_cases()["tiny"], objects())],
    "alone and outside": [(hard_cases()["outside"], objects())],
}


@pytest.mark.parametrize("name", DETECTORS)
def test_gradients_reach_every_parameter(name):
    model = detector(name).train()
    data = model.data_preprocessor(batch((SEVERAL, objects()), (objects(), CROWD)), training=True)
    losses = model(**data, mode="loss")
    model.parse_losses(losses)[0].backward()
    for key, parameter in model.named_parameters():
        assert parameter.requires_grad
        assert parameter.grad.abs().sum() > 0, key


# Recipes


def flat(config: dict, prefix: str = "") -> dict:
    found = {}
    for key, value in config.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


@pytest.mark.parametrize("name", RECIPES)
def test_models_are_mmdets(name):
    """Key by key. What mmdet's file leaves to its head's defaults is spelled out in ours."""
    register_all_modules(init_default_scope=True)
    ours = mmdets_names(flat(configuration(f"{name}.py").model))
    theirs = flat(Config.fromfile(MMDET_CONFIGS / RECIPES[name]).model)
    different = {
        key for key in ours.keys() | theirs.keys() if ours.get(key, "absent") != theirs.get(key, "absent")
    }
    expected = {"bbox_head.type", "bbox_head.num_classes", "test_cfg.nms_pre_by", "test_cfg.clip"}
    # The weights are another file's business.
    expected |= {"backbone.init_cfg", "backbone.init_cfg.type", "backbone.init_cfg.checkpoint"} & different
    defaults = {
        "bbox_head.norm_cfg.type",
        "bbox_head.norm_cfg.num_groups",
        "bbox_head.norm_cfg.requires_grad",
    }
    if name == "vfnet":
        generator = configuration("vfnet.py").model.bbox_head.anchor_generator
        assert generator == dict(
            type="AnchorGenerator",
            ratios=[1.0],
            octave_base_scale=8,
            scales_per_octave=1,
            center_offset=0.0,
            strides=[8, 16, 32, 64, 128],
        )
        defaults |= {f"bbox_head.anchor_generator.{key}" for key in generator}
        # Of ours the defaults, and of mmdet's too
        defaults |= {f"bbox_head.{key}" for key in ("center_sampling", "use_atss", "use_vfl")}
    assert different == expected | defaults


@pytest.mark.parametrize(
    ("name", "warmup_factor", "bias_lr_mult", "bias_decay_mult"),
    [("gfl", 1 / 3, 2, 0), ("gflv2", 0.001, 1, 1), ("vfnet", 0.1, 2, 0)],
)
def test_trained_as_by_the_authors(name, warmup_factor, bias_lr_mult, bias_decay_mult):
    """Their files `gfl_r50_1x`, `gfocal_r50_fpn_1x` and `vfnet_r50_fpn_1x_coco`."""
    config = configuration(f"{name}.py")
    train = config.train
    assert (train.lr, train.momentum, train.weight_decay, train.batch_size) == (0.01, 0.9, 1e-4, 16)
    assert (train.warmup, train.warmup_iterations, train.grad_clip) == ("linear", 500, None)
    assert train.warmup_factor == pytest.approx(warmup_factor)
    assert (train.bias_lr_mult, train.bias_decay_mult) == (bias_lr_mult, bias_decay_mult)
    test_cfg = config.model.test_cfg
    assert (test_cfg.nms.iou_threshold, test_cfg.score_thr, test_cfg.nms_pre) == (0.6, 0.05, 1000)
    assert mmdets_names(config.model.train_cfg.assigner) == dict(type="ATSSAssigner", topk=9)


def test_gflv2_is_gfl_and_its_predictor():
    ours, gfl = (flat(configuration(f"{name}.py").model) for name in ("gflv2", "gfl"))
    different = {key: value for key, value in ours.items() if gfl.get(key) != value}
    assert different == {
        "bbox_head.type": "tood.GFLV2Head",
        "bbox_head.reg_topk": 4,
        "bbox_head.reg_channels": 64,
    }
    assert gfl.keys() <= ours.keys()


# ATSS, PAA and FCOS on larger backbones: the authors' files, restated


MEANS = [102.9801, 115.9465, 122.7717]  # their `INPUT.PIXEL_MEAN`, of images in BGR with a deviation of 1
# Of the model, what the file in front has otherwise than the other: ours
CHANGES = {
    ("atss_r101", "atss"): {
        "data_preprocessor.mean": MEANS,
        "data_preprocessor.std": [1.0, 1.0, 1.0],
        "data_preprocessor.bgr_to_rgb": False,
        "backbone.depth": 101,
        "backbone.norm_cfg.requires_grad": False,  # FrozenBatchNorm2d
        "backbone.style": "caffe",  # RESNETS.STRIDE_IN_1X1
        "neck.relu_before_extra_convs": True,  # LastLevelP6P7
        "bbox_head.conv_bias": True,
        "bbox_head.anchor_generator.center_offset": 0.5,  # generate_anchors: "centered on stride / 2"
        "test_cfg.nms_pre_by": "confident_pair",
    },
    ("fcos_imprv_r101", "fcos_imprv"): {
        "data_preprocessor.mean": MEANS,
        "backbone.depth": 101,
        "bbox_head.loss_bbox.type": "tood.SmoothedGIoULoss",  # layers/iou_loss.py
        "test_cfg.nms_pre_by": "confident_pair",
    },
    ("paa_r101", "atss_r101"): {
        "type": "PAA",
        "bbox_head.type": "tood.PAAReleasedHead",
        "bbox_head.use_iou_pred": True,
        "bbox_head.reg_decoded_bbox": True,
        "bbox_head.topk": 9,
        "bbox_head.loss_bbox.loss_weight": 1.3,  # PAA.REG_LOSS_WEIGHT
        "bbox_head.loss_centerness.loss_weight": 0.5,  # PAA.IOU_LOSS_WEIGHT
        "train_cfg.assigner.type": "tood.OwnBestIoUAssigner",  # modeling/matcher.py
        "train_cfg.assigner.topk": "absent",
        "train_cfg.assigner.pos_iou_thr": 0.1,  # PAA.IOU_THRESHOLD
        "train_cfg.assigner.neg_iou_thr": 0.1,
        "train_cfg.assigner.min_pos_iou": 0,
        "train_cfg.assigner.ignore_iof_thr": -1,
        "test_cfg.score_thr_on": "score",
        "test_cfg.score_voting": True,  # PAA.INFERENCE_SCORE_VOTING
    },
}
DEFORMABLE = {
    "backbone.dcn.type": "tood.ModulatedDeformConv2d",  # RESNETS.WITH_MODULATED_DCN
    "backbone.dcn.deform_groups": 1,
    "backbone.dcn.fallback_on_stride": False,
    "bbox_head.dcn_on_last_conv": True,  # USE_DCN_IN_TOWER
}
for method in ("atss", "paa"):
    CHANGES[f"{method}_r101_dcn", f"{method}_r101"] = DEFORMABLE | {
        "backbone.stage_with_dcn": (False, True, True, True)
    }
    CHANGES[f"{method}_x101_64x4d", f"{method}_r101"] = {
        "data_preprocessor.mean": [123.675, 116.28, 103.53],
        "data_preprocessor.std": [58.395, 57.12, 57.375],
        "data_preprocessor.bgr_to_rgb": True,
        "backbone.type": "ResNeXt",
        "backbone.groups": 64,
        "backbone.base_width": 4,
        "backbone.style": "pytorch",
    }
    CHANGES[f"{method}_x101_64x4d_dcn", f"{method}_x101_64x4d"] = DEFORMABLE | {
        "backbone.stage_with_dcn": (False, False, True, True)
    }
LARGE = [name for name, _ in CHANGES]


def changes(name: str, other: str) -> dict:
    a, b = (flat(configuration(f"{file}.py").model) for file in (name, other))
    return {
        key: a.get(key, "absent")
        for key in a.keys() | b.keys()
        if a.get(key, "absent") != b.get(key, "absent")
    }


@pytest.mark.parametrize(("name", "other"), CHANGES)
def test_models_on_larger_backbones(name, other):
    assert changes(name, other) == CHANGES[name, other]


def test_the_head_of_paa_is_that_of_its_other_runs():
    expected = changes("paa", "atss") | {
        "bbox_head.type": "tood.PAAReleasedHead",
        "train_cfg.assigner.type": "tood.OwnBestIoUAssigner",
        "test_cfg.score_thr_on": "score",
        "test_cfg.score_voting": True,
    }
    assert changes("paa_r101", "atss_r101") == expected


def test_anchors_of_larger_backbones_are_in_the_middle_of_their_cells():
    """As in the authors' code, whose sides count one pixel more: from 4 - 31.5 to 4 + 31.5 at the first."""
    register_all_modules(init_default_scope=True)
    generator = TASK_UTILS.build(configuration("atss_r101.py").model.bbox_head.anchor_generator)
    first, *_ = generator.grid_priors([(2, 2)] * 5, device="cpu")
    assert first.tolist() == [
        [4 - 32, 4 - 32, 4 + 32, 4 + 32],
        [12 - 32, 4 - 32, 12 + 32, 4 + 32],
        [4 - 32, 12 - 32, 4 + 32, 12 + 32],
        [12 - 32, 12 - 32, 12 + 32, 12 + 32],
    ]


# The box loss of FCOS's authors


def test_giou_of_fcos_adds_one_to_intersection_and_union():
    """From distances to the sides, as their `IOULoss` has it."""
    generator = torch.Generator().manual_seed(0)
    predicted, target = (torch.rand(50, 4, generator=generator) * 3 for _ in range(2))
    expected = []
    for (left, t, r, b), (gl, gt, gr, gb) in zip(predicted.tolist(), target.tolist(), strict=True):
        intersection = (min(left, gl) + min(r, gr)) * (min(t, gt) + min(b, gb))
        around = (max(left, gl) + max(r, gr)) * (max(t, gt) + max(b, gb)) + 1e-7
        union = (left + r) * (t + b) + (gl + gr) * (gt + gb) - intersection
        expected.append(1 - ((intersection + 1) / (union + 1) - (around - union) / around))
    boxes, gt_boxes = (torch.cat([-d[:, :2], d[:, 2:]], 1) for d in (predicted, target))
    loss, weights = SmoothedGIoULoss(loss_weight=2.0), torch.rand(50, generator=generator)
    found = loss(boxes, gt_boxes, reduction_override="none")
    torch.testing.assert_close(found, 2 * torch.tensor(expected))
    weighted = loss(boxes, gt_boxes, weights, avg_factor=7.0)
    torch.testing.assert_close(weighted, (found * weights).sum() / 7)
    plain = generalized_box_iou_loss(boxes, gt_boxes)
    assert ((found / 2 - plain).abs() > 0.01).any()
