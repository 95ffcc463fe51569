"""With which boxes a head begins: in strides and in anchors as large at every scale as at full size."""

import functools
import json

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import Tensor

from tood.engine.config import resolve
from tood.study.declarations import load_runs
from tood.study.plan import Plan

RUNS = load_runs()
STUDIES = {
    "smoke": {"scale": "smoke"},
    "mini": {"scale": "mini"},
    "own images": {"scale": "mini", "data_root": "photographs", "name": "mine", "image_size": "512"},
}
# As smoke.yaml says why: 2 strides instead of the size near 0 of the sources.
BEGINS_WITH_TWO_STRIDES = {
    run.id for run in RUNS.values() if run.config.partition("_")[0].removesuffix(".py") in ("ota", "iqdet")
}
# Detectron rounds sides of anchors to whole pixels before it scales them, which is coarser at small strides.
ROUNDED = {"retinanet_r101", "mal_r101"}
LEVELS = 3  # that every pyramid has
CLASSES = [{"id": 1, "name": "cup"}]


@functools.cache
def first_sides(head: str) -> Tensor:
    """Sides of first boxes and anchors, [levels, (box, anchor)] in strides; an anchor of points has side 0.

    Of features that say nothing, which are 0: then the initial weights' draw does not matter.

    Args:
        head: configuration as JSON.
    """
    init_default_scope("mmdet")
    torch.manual_seed(0)
    model = MODELS.build(Config(json.loads(head))).eval()
    model.init_weights()
    strides = [stride[0] for stride in model.prior_generator.strides]
    sizes = [2**level for level in range(len(strides), 0, -1)]  # of maps, pixels
    with torch.no_grad():
        outs = model([torch.zeros(1, json.loads(head)["in_channels"], size, size) for size in sizes])
    meta = dict(img_shape=(sizes[0] * strides[0],) * 2)
    (levels,) = model.dense_by_feat(*outs, batch_img_metas=[meta], clip=False)
    rows = []
    for level, priors, stride in list(zip(levels, model._priors(outs), strides, strict=True))[:LEVELS]:
        anchors = side(priors) if priors.shape[1] == 4 else torch.zeros(1)
        rows.append(torch.stack([side(level.boxes).mean(), anchors.mean()]) / stride)
    return torch.stack(rows)


def side(boxes: Tensor) -> Tensor:
    """[N] of squares as large as boxes [N, 4]."""
    return (boxes[:, 2:] - boxes[:, :2]).prod(1).sqrt()


@functools.cache
def sides_at_full_size(run: str) -> Tensor:
    return sides_of(run, scale="paper")


def sides_of(run: str, **options: str) -> Tensor:
    config = resolve(Plan(options).settings(run), CLASSES, None).model
    head = {**config.bbox_head, "train_cfg": config.get("train_cfg"), "test_cfg": config.test_cfg}
    return first_sides(json.dumps(head, sort_keys=True, default=list))


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("study", STUDIES)
def test_first_boxes_are_as_large_against_strides_and_anchors_as_at_full_size(study, run):
    paper, small = sides_at_full_size(run), sides_of(run, **STUDIES[study])
    close = 0.03 if run in ROUNDED else 1e-5
    assert torch.allclose(small[:, 1], paper[:, 1], rtol=close), "anchors"
    if run in BEGINS_WITH_TWO_STRIDES:
        assert torch.allclose(small[:, 0], torch.tensor(2.0)), "boxes"
        assert torch.allclose(paper[:, 0], torch.tensor(0.0)), "boxes"
    else:
        assert torch.allclose(small[:, 0], paper[:, 0], rtol=close), "boxes"


@pytest.mark.parametrize(
    ("run", "of_anchor"),
    [("atss_af", 1), ("atss_qfl", 1), ("atss_ab", 1), ("tood_ab", 1), ("tood_af", 1 / 4)],
)
def test_first_boxes_against_the_anchor(run, of_anchor):
    boxes, anchors = sides_at_full_size(run).unbind(1)
    assert torch.allclose(boxes / anchors, torch.tensor(float(of_anchor)), rtol=1e-5)
    assert torch.allclose(anchors, torch.tensor(8.0))
