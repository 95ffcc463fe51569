"""Every run of Table 5 against mmdet's nearest file, key by key; each difference is spelled out.

SAPD, OTA and IQDet, which mmdet lacks, are held to this suite's own files with ResNet-50, whose values have
tests of their own.
"""

import pytest
from mmengine.config import Config

from tests.helpers.recipes import (
    ABSENT,
    differences,
    model_differences,
    our_training,
    ours,
    shipped,
    shipped_training,
)
from tood.study.declarations import load_runs, load_tables
from tood.study.paths import CONFIGS

TABLE = load_tables()["table5"]
LARGE = {row.run: row for row in TABLE.rows}
MODULATED = dict(type="tood.ModulatedDeformConv2d", deform_groups=1, fallback_on_stride=False)
VERSION_1 = MODULATED | {"type": "tood.DeformConv2d"}


def mmcvs(name: str, groups: str = "deform_groups") -> dict:
    """A deformable layer of mmcv, which needs a compiled operator."""
    return {"type": name, groups: 1, "fallback_on_stride": False}


def head(ours: str, theirs: str) -> dict:
    """The model's head, and what each differs in: the way of testing as TOOD's code has it."""
    return {
        "bbox_head.type": (f"tood.{ours}", theirs),
        "test_cfg.nms_pre_by": ("location", ABSENT),
        "test_cfg.clip": (True, ABSENT),
    }


PLAIN_FOCAL_LOSS = {"bbox_head.loss_cls.type": ("tood.FocalLoss", "FocalLoss")}  # without a compiled operator
SMOOTH_L1 = {"bbox_head.loss_bbox.type": ("SmoothL1Loss", "L1Loss")}
RELU_BEFORE_P7 = {"neck.relu_before_extra_convs": (True, ABSENT)}
CAFFE = {
    "backbone.style": ("caffe", "pytorch"),
    "backbone.norm_cfg": tuple(dict(type="BN", requires_grad=trained) for trained in (False, True)),
    "data_preprocessor.bgr_to_rgb": (False, True),
    "data_preprocessor.mean": ([102.9801, 115.9465, 122.7717], [123.675, 116.28, 103.53]),
    "data_preprocessor.std": ([1.0, 1.0, 1.0], [58.395, 57.12, 57.375]),
}
X101 = {
    "backbone.type": ("ResNeXt", "ResNet"),
    "backbone.groups": (64, ABSENT),
    "backbone.base_width": (4, ABSENT),
    "backbone.norm_cfg": CAFFE["backbone.norm_cfg"],
}
RETINANET = PLAIN_FOCAL_LOSS | SMOOTH_L1 | RELU_BEFORE_P7
NOISY = {
    "bbox_head.loss_bbox.beta": (0.1, ABSENT),
    "bbox_head.loss_cls.alpha": (0.5, 0.25),
    "train_cfg.alpha": (0.75, ABSENT),
    "train_cfg.momentum": (0.9, ABSENT),
    "train_cfg.assigner.type": ("tood.TopNAssigner", "MaxIoUAssigner"),
    "train_cfg.assigner.top_n": (30, ABSENT),
    "train_cfg.assigner.pos_iou_thr": (ABSENT, 0.5),
    "train_cfg.assigner.neg_iou_thr": (ABSENT, 0.4),
    "train_cfg.assigner.min_pos_iou": (ABSENT, 0),
    "train_cfg.assigner.ignore_iof_thr": (ABSENT, -1),
}
MAL = {  # bags of 50 are FreeAnchor's; the head ignores the class loss
    "bbox_head.loss_cls.type": ("tood.FocalLoss", "CrossEntropyLoss"),
    "bbox_head.loss_cls.gamma": (2.0, ABSENT),
    "bbox_head.loss_cls.alpha": (0.25, ABSENT),
    "bbox_head.init_cfg.override": tuple(
        dict(type="Normal", name="retina_cls", std=0.01, bias_prob=prior) for prior in (0.02, 0.01)
    ),
    "neck.add_extra_convs": ("on_output", "on_input"),
}
# The code of the ATSS authors, which PAA's is built on
OF_ATSS = (
    PLAIN_FOCAL_LOSS
    | RELU_BEFORE_P7
    | {
        "bbox_head.conv_bias": (True, ABSENT),
        "bbox_head.anchor_generator.center_offset": (0.5, ABSENT),
        "test_cfg.nms_pre_by": ("confident_pair", ABSENT),
    }
)
PAA = {
    "bbox_head.use_iou_pred": (True, ABSENT),
    "bbox_head.score_voting": (ABSENT, True),
    "test_cfg.score_voting": (True, ABSENT),
    "test_cfg.score_thr_on": ("score", ABSENT),
}
VFNET = {  # the only choices of the head here
    "bbox_head.center_sampling": (ABSENT, False),
    "bbox_head.use_atss": (ABSENT, True),
    "bbox_head.use_vfl": (ABSENT, True),
}
# TOODHead here has no other losses than these, no other assigner, and no coder for boxes from points.
TOOD = {
    "type": ("tood.TOOD", "TOOD"),
    "bbox_head.bbox_coder.type": (ABSENT, "DeltaXYWHBBoxCoder"),
    "bbox_head.bbox_coder.target_means": (ABSENT, [0.0] * 4),
    "bbox_head.bbox_coder.target_stds": (ABSENT, [0.1, 0.1, 0.2, 0.2]),
    "bbox_head.initial_loss_cls.type": (ABSENT, "FocalLoss"),
    "bbox_head.initial_loss_cls.use_sigmoid": (ABSENT, True),
    "bbox_head.initial_loss_cls.activated": (ABSENT, True),
    "bbox_head.loss_cls.type": (ABSENT, "QualityFocalLoss"),
    "bbox_head.loss_cls.use_sigmoid": (ABSENT, True),
    "bbox_head.loss_cls.activated": (ABSENT, True),
    "train_cfg.assigner.type": (ABSENT, "TaskAlignedAssigner"),
    "train_cfg.debug": (ABSENT, False),
}


def deformable(*stages: int) -> dict:
    """Layers of version 2 in these stages, where mmdet's file has none."""
    return {
        "backbone.dcn": (MODULATED, None),
        "backbone.stage_with_dcn": ([stage in stages for stage in (2, 3, 4, 5)], [False] * 4),
    }


LAST_OF_TOWERS = {"bbox_head.dcn_on_last_conv": (True, ABSENT)}

# Differences of the training
LIST = {"train_short_sides": ({"choices": [640, 672, 704, 736, 768, 800]}, {})}
RANGE = {"train_short_sides": ({"range": [640, 800]}, {})}
TWICE = {"epochs": (24, 12), "milestones": ([16, 22], [8, 11])}
BIASES = {"bias_lr_mult": (2.0, 1.0), "bias_decay_mult": (0.0, 1.0)}
FROM_A_THIRD = {"warmup_factor": (1 / 3, 0.001)}
ATSS_TRAINING = RANGE | TWICE | BIASES | FROM_A_THIRD | {"warmup": ("constant", "linear")}
PAA_TRAINING = {key: pair for key, pair in ATSS_TRAINING.items() if key not in TWICE}
FROM_CAFFE = {"weights": ("resnet101_caffe", "resnet101")}
FROM_X101 = {"weights": ("resnext101_64x4d", "resnet101")}

ATSS_FILE, PAA_FILE = "atss/atss_r101_fpn_1x_coco.py", "paa/paa_r101_fpn_2x_coco.py"
ATSS_HEAD = head("ATSSHead", "ATSSHead") | OF_ATSS
PAA_HEAD = (
    head("PAAReleasedHead", "PAAHead")
    | OF_ATSS
    | PAA
    | {"train_cfg.assigner.type": ("tood.OwnBestIoUAssigner", "MaxIoUAssigner")}
)
ROUNDED = {
    "bbox_head.anchor_generator.type": ("tood.RoundedAnchorGenerator", "AnchorGenerator"),
    "bbox_head.anchor_generator.center_offset": (0.5, ABSENT),
}
# Run: mmdet's file, differences of the model, differences of the training
RECIPES: dict[str, tuple[str, dict, dict]] = {
    "retinanet_r101": (
        "retinanet/retinanet_r101-caffe_fpn_1x_coco.py",
        head("RetinaHead", "RetinaHead") | RETINANET | ROUNDED | {"bbox_head.loss_bbox.beta": (0.11, ABSENT)},
        LIST | BIASES | FROM_A_THIRD | {"epochs": (18, 12), "milestones": ([12, 16], [8, 11])},
    ),
    "fovea_r101": (
        "foveabox/fovea_r101_fpn_4xb4-2x_coco.py",
        head("FoveaHead", "FoveaHead") | PLAIN_FOCAL_LOSS | {"test_cfg.min_bbox_size": (0, ABSENT)},
        {
            "train_short_sides": ({"choices": [640, 800]}, {}),
            "epochs": (18, 24),
            "milestones": ([12, 16], [16, 22]),
            "grad_clip": (35, None),
        }
        | FROM_A_THIRD,
    ),
    "fcos_imprv_r101": (
        "fcos/fcos_r50-caffe_fpn_gn-head-center-normbbox-centeronreg-giou_1x_coco.py",
        head("FCOSHead", "FCOSHead")
        | PLAIN_FOCAL_LOSS
        | {
            "backbone.depth": (101, 50),
            "data_preprocessor.mean": ([102.9801, 115.9465, 122.7717], [103.53, 116.28, 123.675]),
            "bbox_head.loss_bbox.type": ("tood.SmoothedGIoULoss", "GIoULoss"),
            "test_cfg.nms_pre_by": ("confident_pair", ABSENT),
        },
        RANGE | TWICE | {"warmup": ("constant", "linear"), "weights": ("resnet101_caffe", "resnet50_caffe")},
    ),
    "noisy_anchor_r101": (
        "retinanet/retinanet_r101-caffe_fpn_1x_coco.py",
        head("NoisyAnchorHead", "RetinaHead") | RETINANET | NOISY,
        LIST
        | {
            "batch_size": (8, 16),
            "lr": (0.005, 0.01),
            "epochs": (37, 12),
            "milestones": ([29, 34], [8, 11]),
            "norm_decay_mult": (0.0, 1.0),
            "warmup_iterations": (1000, 500),
        },
    ),
    "mal_r101": (
        "free_anchor/freeanchor_r101_fpn_1x_coco.py",
        head("MALHead", "FreeAnchorRetinaHead") | MAL | CAFFE | RELU_BEFORE_P7 | ROUNDED,
        LIST | TWICE | BIASES | FROM_A_THIRD | FROM_CAFFE | {"grad_clip": (None, 35)},
    ),
    "atss_r101": (ATSS_FILE, ATSS_HEAD | CAFFE, ATSS_TRAINING | FROM_CAFFE),
    "atss_x101_64x4d": (ATSS_FILE, ATSS_HEAD | X101, ATSS_TRAINING | FROM_X101),
    "atss_r101_dcn": (
        ATSS_FILE,
        ATSS_HEAD | CAFFE | deformable(3, 4, 5) | LAST_OF_TOWERS,
        ATSS_TRAINING | FROM_CAFFE,
    ),
    "atss_x101_64x4d_dcn": (
        ATSS_FILE,
        ATSS_HEAD | X101 | deformable(4, 5) | LAST_OF_TOWERS,
        ATSS_TRAINING | FROM_X101,
    ),
    "paa_r101": (PAA_FILE, PAA_HEAD | CAFFE, PAA_TRAINING | FROM_CAFFE),
    "paa_x101_64x4d": (PAA_FILE, PAA_HEAD | X101, PAA_TRAINING | FROM_X101),
    "paa_r101_dcn": (
        PAA_FILE,
        PAA_HEAD | CAFFE | deformable(3, 4, 5) | LAST_OF_TOWERS,
        PAA_TRAINING | FROM_CAFFE,
    ),
    "paa_x101_64x4d_dcn": (
        PAA_FILE,
        PAA_HEAD | X101 | deformable(4, 5) | LAST_OF_TOWERS,
        PAA_TRAINING | FROM_X101,
    ),
    "gfl_r101": ("gfl/gfl_r101_fpn_ms-2x_coco.py", head("GFLHead", "GFLHead"), BIASES | FROM_A_THIRD),
    "gfl_x101_32x4d": (
        "gfl/gfl_x101-32x4d_fpn_ms-2x_coco.py",
        head("GFLHead", "GFLHead"),
        BIASES | FROM_A_THIRD,
    ),
    "gfl_r101_dcn": (
        "gfl/gfl_r101-dconv-c3-c5_fpn_ms-2x_coco.py",
        head("GFLHead", "GFLHead") | {"backbone.dcn": (MODULATED, mmcvs("DCN"))},
        BIASES | FROM_A_THIRD,
    ),
    "gfl_x101_32x4d_dcn": (
        "gfl/gfl_x101-32x4d-dconv-c4-c5_fpn_ms-2x_coco.py",
        head("GFLHead", "GFLHead")
        | {
            "backbone.dcn": (MODULATED, mmcvs("DCN")),
            "backbone.stage_with_dcn": ([False, True, True, True], [False, False, True, True]),
        },
        BIASES | FROM_A_THIRD,
    ),
    "gflv2_x101_32x4d_dcn": (
        "gfl/gfl_x101-32x4d-dconv-c4-c5_fpn_ms-2x_coco.py",
        head("GFLV2Head", "GFLHead")
        | {
            "backbone.dcn": (VERSION_1, mmcvs("DCN")),
            "bbox_head.reg_topk": (4, ABSENT),
            "bbox_head.reg_channels": (64, ABSENT),
        },
        {"train_short_sides": ({"range": [480, 960]}, {"range": [480, 800]})},
    ),
    "vfnet_x101_64x4d_dcn": (
        "vfnet/vfnet_x101-64x4d-mdconv-c3-c5_fpn_ms-2x_coco.py",
        head("VFNetHead", "VFNetHead") | VFNET | {"backbone.dcn": (MODULATED, mmcvs("DCNv2"))},
        {},
    ),
    "tood_r101": ("tood/tood_r101_fpn_ms-2x_coco.py", head("TOODHead", "TOODHead") | TOOD, {}),
    "tood_x101_64x4d": ("tood/tood_x101-64x4d_fpn_ms-2x_coco.py", head("TOODHead", "TOODHead") | TOOD, {}),
    "tood_r101_dcn": (
        "tood/tood_r101-dconv-c3-c5_fpn_ms-2x_coco.py",
        head("TOODHead", "TOODHead")
        | TOOD
        | {"backbone.dcn": (MODULATED, mmcvs("DCNv2", "deformable_groups"))},
        {},
    ),
    "tood_x101_64x4d_dcn": (
        "tood/tood_x101-64x4d-dconv-c4-c5_fpn_ms-2x_coco.py",
        head("TOODHead", "TOODHead")
        | TOOD
        | {"backbone.dcn": (MODULATED, mmcvs("DCNv2", "deformable_groups"))},
        {},
    ),
}

# The same of the runs that mmdet has nothing like: this suite's file with ResNet-50
DEEPER = {"backbone.depth": (101, 50)}
RESNEXT = DEEPER | {key: pair for key, pair in X101.items() if key != "backbone.norm_cfg"}
FROM_BGR = {
    "backbone.style": ("pytorch", "caffe"),
    "data_preprocessor.bgr_to_rgb": (True, False),
    "data_preprocessor.mean": ([123.675, 116.28, 103.53], [103.53, 116.28, 123.675]),
    "data_preprocessor.std": ([58.395, 57.12, 57.375], [1.0, 1.0, 1.0]),
}


def stages(*deformed: int) -> dict:
    return {
        "backbone.dcn": (MODULATED, None),
        "backbone.stage_with_dcn": ([stage in deformed for stage in (2, 3, 4, 5)], [False] * 4),
    }


OWN: dict[str, tuple[str, dict]] = {
    "sapd_r101": ("sapd.py", DEEPER),
    "sapd_x101_64x4d": ("sapd.py", RESNEXT),
    "sapd_r101_dcn": ("sapd.py", DEEPER | stages(3, 4, 5)),
    "sapd_x101_64x4d_dcn": ("sapd.py", RESNEXT | stages(4, 5)),
    "ota_x101_64x4d_dcn": ("ota.py", RESNEXT | FROM_BGR | stages(4, 5)),
    "iqdet_x101_64x4d_dcn": ("iqdet.py", RESNEXT | FROM_BGR | stages(4, 5)),
}


def test_every_run_is_compared():
    assert len(LARGE) == 29
    assert set(RECIPES) | set(OWN) == set(LARGE)


@pytest.mark.parametrize("run", RECIPES)
def test_model(run):
    file, expected, _ = RECIPES[run]
    assert model_differences(ours(run), shipped(file)) == expected


@pytest.mark.parametrize("run", RECIPES)
def test_training(run):
    file, _, expected = RECIPES[run]
    assert differences(our_training(run), shipped_training(shipped(file))) == expected
    assert ours(run).train.replica == shipped(file).train_dataloader.batch_size


@pytest.mark.parametrize("run", OWN)
def test_runs_unlike_any_of_mmdet(run):
    file, expected = OWN[run]
    found, smaller = ours(run), Config.fromfile(CONFIGS / file)
    assert model_differences(found, smaller) == expected
    assert differences(found.train, smaller.train) == {}
    assert found.train.replica == 2
    assert our_training(run)["train_short_sides"] == {"range": [640, 800]}
    assert (found.schedule.epochs, list(found.schedule.milestones)) == (24, [16, 22])
    weights = "resnext101_64x4d" if "x101" in run else "resnet101"
    assert load_runs()[run].weights == weights


@pytest.mark.parametrize("run", LARGE)
def test_a_row_says_what_its_configuration_has(run):
    """Epochs, sizes and deformable layers beside each row."""
    config, details = ours(run), LARGE[run].details
    assert details["Epochs"] == str(config.schedule.epochs)
    ((kind, sides),) = config.input.train_short_sides.items()
    if kind == "range":
        said = "{}–{}".format(*sides)
    elif len(sides) == 2:
        said = "{} or {}".format(*sides)
    else:
        assert list(sides) == list(range(sides[0], sides[-1] + 1, 32))
        said = f"{sides[0]}–{sides[-1]} by 32"
    assert details["Sizes"] == said

    backbone, bbox_head = config.model.backbone, config.model.bbox_head
    if "dcn" not in backbone:
        assert details["DCN"] == "–"
        assert not LARGE[run].key["Backbone"].endswith("DCN")
        return
    version = {MODULATED["type"]: "v2", VERSION_1["type"]: "v1"}[backbone.dcn.type]
    deformed = [
        f"c{stage}" for stage, there in zip((2, 3, 4, 5), backbone.stage_with_dcn, strict=True) if there
    ]
    said = f"{version} {deformed[0]}–{deformed[-1]}"
    said += " and last of towers" if bbox_head.get("dcn_on_last_conv") else ""
    said += " and first 2 of tower" if bbox_head.get("num_dcn") == 2 else ""
    assert details["DCN"] == said
    assert LARGE[run].key["Backbone"].endswith("DCN")
