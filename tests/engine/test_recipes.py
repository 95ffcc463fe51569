"""Every run with ResNet-50 against mmdet's nearest file, key by key; each difference is spelled out."""

import pytest

from tests.helpers.recipes import (
    ABSENT,
    differences,
    model_differences,
    our_training,
    ours,
    shipped,
    shipped_training,
)
from tood.study.declarations import load_runs, select_runs

RETINANET = "retinanet/retinanet_r50_fpn_1x_coco.py"
FREEANCHOR = "free_anchor/freeanchor_r50_fpn_1x_coco.py"
FCOS_IMPRV = "fcos/fcos_r50-caffe_fpn_gn-head-center-normbbox-centeronreg-giou_1x_coco.py"
FOVEA = "foveabox/fovea_r50_fpn_4xb4-1x_coco.py"
ATSS = "atss/atss_r50_fpn_1x_coco.py"
TOOD_AF = "tood/tood_r50_fpn_1x_coco.py"
TOOD_AB = "tood/tood_r50_fpn_anchor-based_1x_coco.py"
PAA = "paa/paa_r50_fpn_1.5x_coco.py"

# Key of the model: (ours, mmdet's). What mmdet leaves out has the default of its head.
EVERYWHERE = {
    "test_cfg.nms_pre_by": ("location", ABSENT),  # as the code of the paper, see select_candidates
    "test_cfg.clip": (True, ABSENT),
}
PLAIN_FOCAL_LOSS = {"bbox_head.loss_cls.type": ("tood.FocalLoss", "FocalLoss")}  # without a compiled operator
GROUP_NORM = {"bbox_head.norm_cfg": (dict(type="GN", num_groups=32, requires_grad=True), None)}
POINT_CODER = {
    "bbox_head.bbox_coder.type": ("tood.PointBBoxCoder", "DeltaXYWHBBoxCoder"),
    "bbox_head.bbox_coder.target_means": (ABSENT, [0.0] * 4),
    "bbox_head.bbox_coder.target_stds": (ABSENT, [0.1, 0.1, 0.2, 0.2]),
    "bbox_head.init_cfg.override": (
        [
            dict(type="Normal", name="atss_cls", std=0.01, bias_prob=0.01),
            dict(type="Normal", name="atss_reg", std=0.01, bias=4),  # distances pass a relu
        ],
        dict(type="Normal", name="atss_cls", std=0.01, bias_prob=0.01),
    ),
}
# TOODHead here has no other losses than these, and no other assigner.
OWN_HEAD = {
    "type": ("tood.TOOD", "TOOD"),
    "bbox_head.type": ("tood.TOODHead", "TOODHead"),
    "bbox_head.initial_loss_cls.type": (ABSENT, "FocalLoss"),
    "bbox_head.initial_loss_cls.use_sigmoid": (ABSENT, True),
    "bbox_head.initial_loss_cls.activated": (ABSENT, True),
    "bbox_head.loss_cls.type": (ABSENT, "QualityFocalLoss"),
    "bbox_head.loss_cls.use_sigmoid": (ABSENT, True),
    "bbox_head.loss_cls.activated": (ABSENT, True),
    "train_cfg.assigner.type": (ABSENT, "TaskAlignedAssigner"),
    "train_cfg.debug": (ABSENT, False),
}
ANCHOR_FREE = OWN_HEAD | {  # used by an anchor-based head only
    "bbox_head.bbox_coder.type": (ABSENT, "DeltaXYWHBBoxCoder"),
    "bbox_head.bbox_coder.target_means": (ABSENT, [0.0] * 4),
    "bbox_head.bbox_coder.target_stds": (ABSENT, [0.1, 0.1, 0.2, 0.2]),
}
ATSS_HEAD = {"bbox_head.type": ("tood.ATSSHead", "ATSSHead")}
TWO_TOWERS = ANCHOR_FREE | {
    "bbox_head.type": ("tood.ParallelTALHead", "TOODHead"),
    "bbox_head.stacked_convs": (4, 6),
}
NEVER_TAL = {"train_cfg.initial_epoch": (None, 4)}  # the warm-up is T-head + ATSS
T_HEAD_TOWER = {"bbox_head.stacked_convs": (6, 4)}
FOVEA_OF_TABLE_1 = (
    PLAIN_FOCAL_LOSS
    | GROUP_NORM
    | {
        "bbox_head.conv_bias": (True, "auto"),
        "test_cfg.min_bbox_size": (0, ABSENT),
    }
)
PAA_HEAD = PLAIN_FOCAL_LOSS | {
    "bbox_head.type": ("tood.PAAHead", "PAAHead"),
    "bbox_head.score_voting": (ABSENT, True),
    "test_cfg.score_thr_on": ("confidence", ABSENT),  # as mmdet's head, which has no such option
}
FREEANCHOR_HEAD = {  # the head ignores the class loss, for which RetinaNet's configuration is inherited
    "bbox_head.loss_cls.type": ("tood.FocalLoss", "CrossEntropyLoss"),
    "bbox_head.loss_cls.gamma": (2.0, ABSENT),
    "bbox_head.loss_cls.alpha": (0.25, ABSENT),
}


def sweep(**changes: tuple) -> tuple[str, dict]:
    return TOOD_AF, ANCHOR_FREE | {
        f"train_cfg.{key.replace('__', '.')}": pair for key, pair in changes.items()
    }


# Run: mmdet's file, differences of the model besides EVERYWHERE
RECIPES: dict[str, tuple[str, dict]] = {
    "retinanet": (
        RETINANET,
        PLAIN_FOCAL_LOSS | {"bbox_head.type": ("tood.RetinaHead", "RetinaHead")},
    ),
    "pisa": (
        "pisa/retinanet-r50_fpn_pisa_1x_coco.py",
        PLAIN_FOCAL_LOSS | {"bbox_head.type": ("tood.PISARetinaHead", "PISARetinaHead")},
    ),
    "noisy_anchor": (
        RETINANET,
        {
            "bbox_head.type": ("tood.NoisyAnchorHead", "RetinaHead"),
            "bbox_head.loss_cls.type": ("tood.FocalLoss", "FocalLoss"),
            "bbox_head.loss_cls.alpha": (0.5, 0.25),
            "bbox_head.loss_bbox.type": ("SmoothL1Loss", "L1Loss"),
            "bbox_head.loss_bbox.beta": (0.1, ABSENT),
            "train_cfg.alpha": (0.75, ABSENT),
            "train_cfg.momentum": (0.9, ABSENT),
            "train_cfg.assigner.type": ("tood.TopNAssigner", "MaxIoUAssigner"),
            "train_cfg.assigner.top_n": (30, ABSENT),
            "train_cfg.assigner.pos_iou_thr": (ABSENT, 0.5),
            "train_cfg.assigner.neg_iou_thr": (ABSENT, 0.4),
            "train_cfg.assigner.min_pos_iou": (ABSENT, 0),
            "train_cfg.assigner.ignore_iof_thr": (ABSENT, -1),
        },
    ),
    "freeanchor": (
        FREEANCHOR,
        FREEANCHOR_HEAD | {"bbox_head.type": ("tood.FreeAnchorHead", "FreeAnchorRetinaHead")},
    ),
    "mal": (
        FREEANCHOR,
        FREEANCHOR_HEAD
        | {
            "bbox_head.type": ("tood.MALHead", "FreeAnchorRetinaHead"),
            "bbox_head.pre_anchor_topk": (40, 50),
            "bbox_head.init_cfg.override": tuple(
                dict(type="Normal", name="retina_cls", std=0.01, bias_prob=prior) for prior in (0.02, 0.01)
            ),
        },
    ),
    "fcos": (  # the row of Table 3 of the FCOS paper that the TOOD paper prints
        "fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py",
        PLAIN_FOCAL_LOSS
        | {
            "bbox_head.type": ("tood.FCOSHead", "FCOSHead"),
            "bbox_head.centerness_on_reg": (True, False),
            "test_cfg.nms.iou_threshold": (0.6, 0.5),
        },
    ),
    "fcos_imprv": (FCOS_IMPRV, PLAIN_FOCAL_LOSS | {"bbox_head.type": ("tood.FCOSHead", "FCOSHead")}),
    "fcos_imprv_thead": (
        FCOS_IMPRV,
        PLAIN_FOCAL_LOSS | T_HEAD_TOWER | {"bbox_head.type": ("tood.THeadFCOS", "FCOSHead")},
    ),
    "fovea": (FOVEA, FOVEA_OF_TABLE_1 | {"bbox_head.type": ("tood.FoveaHead", "FoveaHead")}),
    "fovea_thead": (
        FOVEA,
        FOVEA_OF_TABLE_1 | T_HEAD_TOWER | {"bbox_head.type": ("tood.THeadFovea", "FoveaHead")},
    ),
    "atss_ab": (ATSS, PLAIN_FOCAL_LOSS | ATSS_HEAD),
    "atss_af": (ATSS, PLAIN_FOCAL_LOSS | POINT_CODER | ATSS_HEAD),
    "atss_qfl": (
        ATSS,
        POINT_CODER
        | {
            "bbox_head.type": ("tood.ATSSQFLHead", "ATSSHead"),
            "bbox_head.loss_cls.type": ("QualityFocalLoss", "FocalLoss"),
            "bbox_head.loss_cls.beta": (2.0, ABSENT),
            "bbox_head.loss_cls.gamma": (ABSENT, 2.0),
            "bbox_head.loss_cls.alpha": (ABSENT, 0.25),
        },
    ),
    "paa": (PAA, PAA_HEAD | {"bbox_head.use_iou_pred": (False, ABSENT)}),
    "paa_iou": (PAA, PAA_HEAD | {"bbox_head.use_iou_pred": (True, ABSENT)}),
    "atss_af_thead": (TOOD_AF, ANCHOR_FREE | NEVER_TAL),
    "atss_ab_thead": (TOOD_AB, OWN_HEAD | NEVER_TAL),
    "tal": (TOOD_AF, TWO_TOWERS),
    "tal_18e": (TOOD_AF, TWO_TOWERS),
    "tal_tap_18e": (TOOD_AF, TWO_TOWERS | {"bbox_head.aligned": (True, ABSENT)}),
    "tood_af": (TOOD_AF, ANCHOR_FREE),
    "tood_ab": (TOOD_AB, OWN_HEAD),
    "tood_alpha05_beta2": sweep(alpha=(0.5, 1), beta=(2.0, 6)),
    "tood_alpha05_beta4": sweep(alpha=(0.5, 1), beta=(4.0, 6)),
    "tood_alpha05_beta6": sweep(alpha=(0.5, 1)),
    "tood_alpha10_beta8": sweep(beta=(8.0, 6)),
    "tood_alpha15_beta8": sweep(alpha=(1.5, 1), beta=(8.0, 6)),
    "tood_m5": sweep(assigner__topk=(5, 13)),
    "tood_m9": sweep(assigner__topk=(9, 13)),
    "tood_m17": sweep(assigner__topk=(17, 13)),
    "tood_m21": sweep(assigner__topk=(21, 13)),
}
LONGER = {"epochs": (18, 12), "milestones": ([12, 16], [8, 11])}
# What the paper's authors trained, with ResNet-50 on 4 GPUs; other rows are printed from other papers.
TRAINED_BY_THE_AUTHORS = {
    *("fcos_imprv", "fcos_imprv_thead", "fovea", "fovea_thead", "atss_ab", "atss_af"),
    *("atss_af_thead", "atss_ab_thead", "tal", "tal_18e", "tal_tap_18e"),
    *(run for run in RECIPES if run.startswith("tood")),
}


def test_every_run_is_compared():
    assert set(RECIPES) == {run.id for run in select_runs(None, load_runs()) if run.backbone == "ResNet-50"}


@pytest.mark.parametrize("run", RECIPES)
def test_model(run):
    file, expected = RECIPES[run]
    assert model_differences(ours(run), shipped(file)) == EVERYWHERE | expected


@pytest.mark.parametrize("run", RECIPES)
def test_training(run):
    """Initial weights, optimiser, warm-up, schedule, batch and augmentation."""
    theirs = shipped(RECIPES[run][0])
    found = differences(our_training(run), shipped_training(theirs))
    assert found == (LONGER if run in ("tal_18e", "tal_tap_18e") else {})
    per_gpu = 4 if run in TRAINED_BY_THE_AUTHORS else theirs.train_dataloader.batch_size
    assert ours(run).train.replica == per_gpu
