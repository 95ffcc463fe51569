"""The fast ATSS assignment against mmdet's."""

import pytest
import torch
from mmdet.models.task_modules.assigners import ATSSAssigner as MMDetATSSAssigner
from mmdet.models.task_modules.prior_generators import AnchorGenerator
from mmengine.structures import InstanceData

from tood.heads import ATSSAssigner
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
