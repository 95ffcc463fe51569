"""Every anchor's prediction of a dense head of mmdet, by the head's own decoding."""

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.task_modules.prior_generators import AnchorGenerator, MlvlPointGenerator
from mmdet.structures.bbox import get_box_tensor
from mmengine.config import ConfigDict
from torch import Tensor, nn

from tood.models.common.dense_level import DenseLevel, grid_of
from tood.study.declarations import ExperimentError

_FILTER = "filter_scores_and_topk"


def reader_problem(head: nn.Module) -> str | None:
    """Why `dense_levels` cannot read a head; None if it can."""
    name = type(head).__name__
    if not isinstance(head, BaseDenseHead):
        return f"{name} is no dense head"
    if not isinstance(getattr(head, "prior_generator", None), AnchorGenerator | MlvlPointGenerator):
        return f"{name} has no anchors or points on a grid"
    decode = type(head)._predict_by_feat_single
    if type(head).predict_by_feat is not BaseDenseHead.predict_by_feat or _FILTER not in decode.__globals__:
        return f"{name} decodes its predictions in a way of its own"
    return None


@torch.no_grad()
def dense_levels(head: BaseDenseHead, outs: tuple[list[Tensor], ...], meta: dict) -> list[DenseLevel]:
    """Scores, boxes and points of all anchors of one image.

    All heads of mmdet that share `BaseDenseHead.predict_by_feat` decode the anchors that one function selects
    from a level. Here that function selects all of them, in their order, so the decoding stays the head's
    own.

    Args:
        head: see `reader_problem`.
        outs: what its `forward` returned for one image: class scores, box predictions and perhaps a factor of
            the scores, each a list over levels of [1, channels, H, W].
        meta: of the image, with `img_shape`.

    Raises:
        ExperimentError: the head decodes in another way.
    """
    grids = [grid_of(maps) for maps in outs[0]]
    priors = head.prior_generator.grid_priors(grids, dtype=outs[0][0].dtype, device=outs[0][0].device)
    kept: list[Tensor] = []

    def keep_all(scores: Tensor, threshold: float, number: int, results: Any = None) -> tuple:
        kept.append(scores)
        anchors = torch.arange(len(scores), device=scores.device)
        return torch.ones_like(scores[:, 0]), torch.zeros_like(anchors), anchors, results

    decode: Callable = type(head)._predict_by_feat_single
    cfg = ConfigDict(head.test_cfg, min_bbox_size=-1, nms_pre=-1)
    maps: list[list] = [[level[0] for level in out] for out in outs]
    if len(maps) == 2:
        maps.append([None] * len(grids))
    with patch.dict(decode.__globals__, {_FILTER: keep_all}):
        predicted = head._predict_by_feat_single(*maps[:3], priors, meta, cfg, False, with_nms=False)
    sizes = [len(prior) for prior in priors]
    if [len(scores) for scores in kept] != sizes or len(predicted.bboxes) != sum(sizes):
        raise ExperimentError(f"{type(head).__name__}: does not predict one box for each of its anchors")
    boxes = get_box_tensor(predicted.bboxes).split(sizes)
    factors = predicted.scores.split(sizes)  # 1 if the head has none
    return [
        DenseLevel(scores, scores * factor[:, None], box, _centres(prior), grid, int(stride[0]))
        for scores, factor, box, prior, grid, stride in zip(
            kept, factors, boxes, priors, grids, head.prior_generator.strides, strict=True
        )
    ]


def _centres(priors: Tensor) -> Tensor:
    """[A, 2] of anchors [A, 4] or of points [A, 2]."""
    return (priors[:, :2] + priors[:, 2:]) / 2 if priors.shape[1] == 4 else priors
