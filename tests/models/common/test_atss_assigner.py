"""The fast ATSS assignment against mmdet's."""

import pytest
import torch
from helpers.point_heads import METAS, OVERLAPPING, SEVERAL, configuration, features, meta, narrow_head
from helpers.point_heads import objects as objects_of_image
from mmdet.models.task_modules.assigners import ATSSAssigner as MMDetATSSAssigner
from mmdet.models.task_modules.prior_generators import AnchorGenerator
from mmdet.registry import MODELS
from mmengine.structures import InstanceData

from tood.heads import ATSSAssigner
from tood.models.common.atss_assigner import match_batch
from tood.models.common.pairs import PAIRS_AT_ONCE

STRIDES = [8, 16, 32, 64]


def anchors(size: tuple[int, int], dtype: torch.dtype) -> list[torch.Tensor]:
    generator = AnchorGenerator(strides=STRIDES, ratios=[1.0], octave_base_scale=8, scales_per_octave=1)
    grids = [(-(-size[0] // s), -(-size[1] // s)) for s in STRIDES]
    return generator.grid_priors(grids, dtype=dtype, device="cpu")


def objects(number: int, size: tuple[int, int], unit: float | None, dtype: torch.dtype) -> InstanceData:
    """Objects; with corners at multiples of `unit` pixels they are often equally far from two anchors."""
    generator = torch.Generator().manual_seed(number)
    corners = torch.rand(2, number, 2, generator=generator, dtype=dtype) * torch.tensor(size[::-1])
    if unit is not None:
        corners = (corners / unit).round() * unit
    boxes = torch.cat([corners.amin(0), corners.amax(0)], 1)
    return InstanceData(bboxes=boxes, labels=torch.randint(80, (number,), generator=generator))


@pytest.mark.parametrize("pairs", [1, 1000, 2**18])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("unit", [None, 1, 4])
@pytest.mark.parametrize("number", [0, 1, 9, 60])
@pytest.mark.parametrize("size", [(96, 160), (8, 40), (256, 224)], ids=str)
def test_all_is_as_mmdet_has_it(size, number, unit, dtype, pairs, monkeypatch):
    monkeypatch.setitem(PAIRS_AT_ONCE, "cpu", pairs)
    levels, gt = anchors(size, dtype), objects(number, size, unit, dtype)
    numbers = [len(level) for level in levels]
    results = [
        assigner(topk=9).assign(InstanceData(priors=torch.cat(levels)), numbers, gt)
        for assigner in (ATSSAssigner, MMDetATSSAssigner)
    ]
    for name in ("num_gts", "gt_inds", "max_overlaps", "labels"):
        ours, theirs = (torch.as_tensor(getattr(result, name)) for result in results)
        assert torch.equal(ours, theirs), name
    assert number < 9 or size == (8, 40) or results[0].gt_inds.any()


def test_options_that_it_lacks_are_left_to_mmdet():
    """A region to be ignored."""
    levels, gt = anchors((96, 160), torch.float32), objects(9, (96, 160), None, torch.float32)
    ignored = InstanceData(bboxes=torch.tensor([[0.0, 0, 80, 96]]))
    found, expected = (
        assigner(topk=9, ignore_iof_thr=0.5).assign(
            InstanceData(priors=torch.cat(levels)), [len(level) for level in levels], gt, ignored
        )
        for assigner in (ATSSAssigner, MMDetATSSAssigner)
    )
    assert (expected.gt_inds == -1).any()
    assert torch.equal(found.gt_inds, expected.gt_inds)


@pytest.mark.parametrize("border", [-1, 0, 8])
def test_a_batch_is_matched_as_by_an_assigner_for_each_image(border):
    """Also an image without objects, in the middle, and one with padding, whose anchors are left out."""
    head = narrow_head("atss.py")
    head.train_cfg["allowed_border"] = border
    grids = [(16, 20), (8, 10), (4, 5), (2, 3), (1, 2)]
    priors = head.prior_generator.grid_priors(grids, device="cpu")
    gts, metas = [SEVERAL, objects_of_image(), OVERLAPPING], [meta(), meta(), METAS[1]]
    rows = head._rows_inside(grids, priors, metas)
    A = sum(map(len, priors))
    before, expected = 0, set()
    for b, (gt, of_image) in enumerate(zip(gts, metas, strict=True)):
        inside = head._inside(grids, priors, of_image)
        index = torch.cat([r + s for r, s in zip(rows[b], [0, 320, 400, 420, 426], strict=True)])
        assert torch.equal(index, inside.nonzero().squeeze(1))
        assert (len(index) < A) == (b == 2 or border >= 0)
        if len(gt.labels):
            numbers = [int(part.sum()) for part in inside.split([len(level) for level in priors])]
            taking_part = InstanceData(priors=torch.cat(priors)[inside])
            owner = torch.full_like(inside, -1, dtype=torch.long)
            owner[inside] = MMDetATSSAssigner(topk=9).assign(taking_part, numbers, gt).gt_inds - 1
            expected |= {(b * A + a, before + o) for a, o in enumerate(owner.tolist()) if o >= 0}
        before += len(gt.labels)
    assert len(expected) > 5
    for assigner in (ATSSAssigner(topk=9), MMDetATSSAssigner(topk=9)):
        anchors, owners, positive = match_batch(assigner, priors, rows, gts)
        found = list(zip(anchors[positive].tolist(), owners[positive].tolist(), strict=True))
        assert len(found) == len(set(found))
        assert set(found) == expected


def test_a_batch_without_objects():
    head = narrow_head("atss.py")
    outs = head(features())
    losses = head.loss_by_feat(*outs, [objects_of_image(), objects_of_image()], METAS)
    sum(losses.values()).backward()
    assert losses["loss_cls"] > 0 == losses["loss_bbox"] == losses["loss_centerness"]
    assert all(parameter.grad is not None for parameter in head.parameters())


def test_regions_to_be_ignored_are_refused():
    model = configuration("atss.py").model
    model.train_cfg.assigner.ignore_iof_thr = 0.5
    with pytest.raises(ValueError, match=r"ignore_iof_thr is set.*remove it"):
        MODELS.build({**model.bbox_head, "train_cfg": model.train_cfg, "test_cfg": model.test_cfg})
