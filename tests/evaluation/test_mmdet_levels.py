"""Every anchor of mmdet's own heads: what NMS leaves of them is what the head itself detects."""

import copy

import pytest
import torch
from helpers.mmdet_heads import MMDET_CONFIGS, narrow_mmdet_head
from helpers.point_heads import CHANNELS
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.config import Config, ConfigDict
from torch import nn

from tood.evaluation.mmdet_levels import dense_levels, reader_problem
from tood.models.common.dense_prediction import select_detections

GRIDS = [(12, 16), (6, 8), (3, 4), (2, 2), (1, 1)]
META = {"img_shape": (90, 120), "scale_factor": (1.0, 1.0)}
CONFIGS = {
    "ATSS": "atss/atss_r50_fpn_1x_coco.py",
    "RetinaNet": "retinanet/retinanet_r50_fpn_1x_coco.py",
    "FCOS": "fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py",
    "GFL": "gfl/gfl_r50_fpn_1x_coco.py",
    "FoveaBox": "foveabox/fovea_r50_fpn_4xb4-1x_coco.py",
}


@pytest.fixture(autouse=True)
def _registered():
    register_all_modules(init_default_scope=True)


def head_of(name: str) -> nn.Module:
    torch.manual_seed(0)
    changes = {} if name != "RetinaNet" else {"norm_cfg": None}
    head = narrow_mmdet_head(CONFIGS[name], **changes)
    head.init_weights()
    for parameter in head.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(std=0.2)
    return head.eval()


@pytest.mark.usefixtures("torchvision_operators")
@pytest.mark.parametrize("name", CONFIGS)
def test_the_levels_lead_to_the_heads_own_detections(name):
    head = head_of(name)
    assert reader_problem(head) is None
    features = [torch.randn(1, CHANNELS, *grid) for grid in GRIDS]
    with torch.no_grad():
        outs = head(features)
    levels = dense_levels(head, outs, META)
    per_location = head.num_base_priors if name != "FoveaBox" else 1
    assert [len(level.boxes) for level in levels] == [per_location * h * w for h, w in GRIDS]
    assert [level.grid for level in levels] == GRIDS
    cfg = {**head.test_cfg, "nms_pre": 100, "nms_pre_by": "pair", "score_thr": 0.01}
    found = select_detections(levels, META, cfg, rescale=True)
    (expected,) = head.predict_by_feat(
        *outs, batch_img_metas=[META], cfg=ConfigDict({**head.test_cfg, "nms_pre": 100, "score_thr": 0.01})
    )
    order, theirs = found.scores.argsort(descending=True), expected.scores.argsort(descending=True)
    assert len(set(found.labels.tolist())) > 1
    for key in ("scores", "bboxes", "labels"):
        torch.testing.assert_close(found[key][order], expected[key][theirs])
    assert len(found.scores) > 10


def test_centres_of_several_anchors_of_a_location_are_the_same():
    head = head_of("RetinaNet")
    with torch.no_grad():
        outs = head([torch.randn(1, CHANNELS, *grid) for grid in GRIDS])
    first = dense_levels(head, outs, META)[0]
    assert torch.equal(first.points[:9], first.points[:1].expand(9, 2))
    assert (first.points[9] - first.points[0]).tolist() == [8, 0]


def test_reading_changes_nothing_of_mmdet():
    from mmdet.models.dense_heads import base_dense_head

    before = base_dense_head.filter_scores_and_topk
    head = head_of("ATSS")
    with torch.no_grad():
        dense_levels(head, head([torch.randn(1, CHANNELS, *grid) for grid in GRIDS]), META)
    assert base_dense_head.filter_scores_and_topk is before


@pytest.mark.parametrize(
    ("file", "problem"),
    [
        ("paa/paa_r50_fpn_1x_coco.py", "PAAHead decodes its predictions in a way of its own"),
        ("detr/detr_r50_8xb2-150e_coco.py", "DETRHead is no dense head"),
    ],
)
def test_a_head_that_cannot_be_read_is_named(file, problem):
    model = Config.fromfile(MMDET_CONFIGS / file).model
    head = MODELS.build({**copy.deepcopy(model.bbox_head), "train_cfg": None, "test_cfg": model.test_cfg})
    assert reader_problem(head) == problem
    assert "no dense head" in reader_problem(nn.Linear(1, 1))
