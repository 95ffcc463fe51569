"""From dense predictions to detections, and to positives, one way for every head of the suite."""

import math

import torch
from mmdet.models.task_modules.prior_generators import (
    AnchorGenerator,
    MlvlPointGenerator,
    anchor_inside_flags,
)
from mmdet.structures.bbox import get_box_tensor
from mmengine.structures import InstanceData
from torch import Tensor
from torchvision.ops import batched_nms, clip_boxes_to_image

from tood.models.common.dense_level import DenseLevel
from tood.models.common.divisors import Divisors
from tood.models.common.positives import Positives, of_assignment
from tood.models.common.score_voting import vote


def select_candidates(
    level: DenseLevel, score_thr: float, nms_pre: int, by: str, thr_on: str = "score"
) -> tuple[Tensor, Tensor, Tensor]:
    """What one level sends to NMS.

    Args:
        level: all anchors of the level.
        score_thr: what `thr_on` names must exceed it.
        nms_pre: how many to keep, -1 for all.
        by: "location" keeps the `nms_pre` anchors of highest confidence with all their classes, as the
            paper's code does; "pair" the `nms_pre` (anchor, class) pairs of highest score, as mmdet 3 does;
            "confident_pair" those of highest confidence, as the code of FCOS, ATSS and PAA does.
        thr_on: "score", the classification score, or "confidence".

    Returns:
        boxes [K, 4], confidence [K], labels [K]

    Raises:
        ValueError: unknown `by` or `thr_on`.
    """
    scores, confidence, boxes = level.scores, level.confidence, level.boxes
    if thr_on not in ("score", "confidence"):
        raise ValueError(f"test_cfg.score_thr_on is {thr_on!r}; it must be 'score' or 'confidence'")
    if by not in ("location", "pair", "confident_pair"):
        raise ValueError(f"test_cfg.nms_pre_by is {by!r}; it must be 'location', 'pair' or 'confident_pair'")
    if by == "location" and 0 < nms_pre < len(boxes):
        kept = confidence.amax(1).topk(nms_pre).indices
        scores, confidence, boxes = scores[kept], confidence[kept], boxes[kept]
    limited, rank = scores if thr_on == "score" else confidence, scores if by == "pair" else confidence
    passes = limited > score_thr  # [H*W, C]
    if by != "location" and 0 < nms_pre < len(boxes):
        # As many anchors have a pair of at least this rank; without a threshold most pairs are below.
        best = (rank if rank is limited else rank.where(passes, -torch.inf)).amax(1)  # [H*W]
        passes &= rank >= best.topk(nms_pre).values[-1]
    anchor, label = passes.nonzero(as_tuple=True)
    if by != "location" and 0 < nms_pre <= len(anchor):
        kept = rank[anchor, label].sort(descending=True, stable=True).indices[:nms_pre]
        anchor, label = anchor[kept], label[kept]
    return boxes[anchor], confidence[anchor, label], label


class DensePredictionMixin:
    """Turns what a head's `forward` returns into dense levels and these into detections.

    A head implements `_dense_level`; `test_cfg` has mmdet's keys (`score_thr`, `nms_pre`, `nms`,
    `max_per_img`, `min_bbox_size`) and four of this package: `nms_pre_by` and `score_thr_on` (see
    `select_candidates`), `clip` (boxes clipped to the image before NMS; default True) and `score_voting`
    (see `vote`; default False). NMS is torchvision's: no compiled mmcv operator is called.

    For `positives_by_feat` a head implements `_assign`, or `_positives` where its assignment is soft.
    """

    # Of the mmdet head
    prior_generator: AnchorGenerator | MlvlPointGenerator
    test_cfg: dict
    train_cfg: dict

    def set_progress(self, epoch: int, progress: float) -> None:
        """Receive the progress of the training; the training loop calls it before each iteration.

        Only heads that override this method use it.

        Args:
            epoch: from 0.
            progress: share of all iterations that is done, in [0, 1].
        """

    # Whether the positives depend on what the model predicts, or on anchors and objects alone
    assigns_by_prediction = False
    # What decides the numbers that the loss averages over GPUs; the default is right for any head
    divisors = Divisors.PREDICTIONS

    def divisors_from_targets(
        self, grids: list[tuple[int, int]], gts: list[InstanceData], metas: list[dict], like: Tensor
    ) -> list[Tensor]:
        """The arguments of the loss's calls of `reduce_mean`, in order, if targets alone decide them.

        Args:
            grids: (H, W) of each level.
            gts, metas: of the images.
            like: a tensor of the type and on the device of the predictions.
        """
        raise NotImplementedError

    def _dense_level(self, level: int, outs: tuple[Tensor, ...], priors: Tensor) -> DenseLevel:
        """One level of one image from its maps, each [channels, H, W], and its anchors [H*W, 4]."""
        raise NotImplementedError

    @torch.no_grad()
    def dense_by_feat(
        self, *outs: list[Tensor], batch_img_metas: list[dict], clip: bool = True
    ) -> list[list[DenseLevel]]:
        """Every anchor of every level for each image.

        Args:
            outs: what `forward` returned: lists over levels of [B, channels, H, W].
            batch_img_metas: with `img_shape` (height, width) of each image, without padding.
            clip: clip boxes to the image.
        """
        priors = self._priors(outs)
        images = []
        for b, meta in enumerate(batch_img_metas):
            levels = []
            for index, maps in enumerate(zip(*outs, strict=True)):
                level = self._dense_level(index, tuple(m[b] for m in maps), priors[index])
                if clip:
                    boxes = clip_boxes_to_image(level.boxes, meta["img_shape"][:2])
                    level = level._replace(boxes=boxes)
                levels.append(level)
            images.append(levels)
        return images

    def predict_by_feat(
        self,
        *outs: list[Tensor],
        batch_img_metas: list[dict],
        cfg: dict | None = None,
        rescale: bool = False,
        with_nms: bool = True,
    ) -> list[InstanceData]:
        """Detections of each image, by falling score; boxes in original pixels if `rescale`."""
        cfg = self.test_cfg if cfg is None else cfg
        images = self.dense_by_feat(*outs, batch_img_metas=batch_img_metas, clip=cfg.get("clip", True))
        return [
            select_detections(levels, meta, cfg, rescale, with_nms)
            for levels, meta in zip(images, batch_img_metas, strict=True)
        ]

    @torch.no_grad()
    def positives_by_feat(
        self, *outs: list[Tensor], batch_gt_instances: list[InstanceData], batch_img_metas: list[dict]
    ) -> list[Positives]:
        """Which anchors the scheme makes positive for which object, by image, as in the loss.

        Args:
            outs: what `forward` returned: lists over levels of [B, channels, H, W].
            batch_gt_instances: `bboxes` [G, 4] in pixels of the input and `labels` [G] of each image.
            batch_img_metas: with `img_shape` and `pad_shape` (height, width) of each image.
        """
        images = self.dense_by_feat(*outs, batch_img_metas=batch_img_metas, clip=False)
        priors = self._priors(outs)
        return [
            self._positives(levels, priors, gt, meta)
            for levels, gt, meta in zip(images, batch_gt_instances, batch_img_metas, strict=True)
        ]

    def _positives(
        self, levels: list[DenseLevel], priors: list[Tensor], gt: InstanceData, meta: dict
    ) -> Positives:
        return of_assignment(self._assign(levels, priors, gt, meta))

    def _assign(self, levels: list[DenseLevel], priors: list[Tensor], gt: InstanceData, meta: dict) -> Tensor:
        """[A] the object of each anchor of one image, negative for none."""
        raise NotImplementedError

    def _priors(self, outs: tuple[list[Tensor], ...]) -> list[Tensor]:
        """Anchors or points of each level, row by row."""
        grids = [maps.shape[-2:] for maps in outs[0]]
        return self.prior_generator.grid_priors(grids, dtype=outs[0][0].dtype, device=outs[0][0].device)

    def _inside(self, grids: list[tuple[int, int]], priors: list[Tensor], meta: dict) -> Tensor:
        """[A] whether an anchor takes part in training: its cell is not in the padding."""
        flags = self.prior_generator.valid_flags(grids, meta["pad_shape"][:2], device=priors[0].device)
        border = self.train_cfg.get("allowed_border", -1)
        return anchor_inside_flags(torch.cat(priors), torch.cat(flags), meta["img_shape"][:2], border)

    def _rows_inside(
        self, grids: list[tuple[int, int]], priors: list[Tensor], metas: list[dict]
    ) -> list[list[Tensor]]:
        """Of each image and level, the indices of the anchors that take part in training, as in `_inside`."""
        if self.train_cfg.get("allowed_border", -1) >= 0:
            sizes = [len(level) for level in priors]
            inside = [self._inside(grids, priors, meta).split(sizes) for meta in metas]
            return [[level.nonzero().squeeze(1) for level in image] for image in inside]
        # All rows: their number is known, while a selection would wait for the device
        all_rows = [
            torch.arange(len(level), device=level.device).view(*grid, -1)  # [H, W, anchors of a cell]
            for level, grid in zip(priors, grids, strict=True)
        ]
        return [
            [
                rows[: math.ceil(meta["pad_shape"][0] / y), : math.ceil(meta["pad_shape"][1] / x)].flatten()
                for rows, (x, y) in zip(all_rows, self.prior_generator.strides, strict=True)
            ]
            for meta in metas
        ]


class TorchvisionNMSMixin:
    """Replaces the NMS of a dense head of mmdet, a compiled operator of mmcv, by torchvision's."""

    def _bbox_post_process(
        self,
        results: InstanceData,
        cfg: dict,
        rescale: bool = False,
        with_nms: bool = True,
        img_meta: dict | None = None,
    ) -> InstanceData:
        """As the host's, with NMS per class; raises ValueError where `cfg` asks for another kind of NMS."""
        host = super()._bbox_post_process  # type: ignore[misc]  # comes with the head that this is put before
        results = host(results, cfg, rescale, with_nms=False, img_meta=img_meta)
        if with_nms:
            if (kind := cfg["nms"].get("type", "nms")) != "nms":
                raise ValueError(f"test_cfg.nms.type is {kind!r}; torchvision has 'nms' alone")
            boxes = get_box_tensor(results.bboxes)
            kept = batched_nms(boxes, results.scores, results.labels, cfg["nms"]["iou_threshold"])
            results = results[kept[: cfg["max_per_img"]]]
        return results


def select_detections(
    levels: list[DenseLevel], meta: dict, cfg: dict, rescale: bool, with_nms: bool = True
) -> InstanceData:
    """Detections of one image from its dense predictions.

    Args:
        levels: of the image.
        meta: with `scale_factor` (width, height), if `rescale`.
        cfg: `test_cfg`, see `DensePredictionMixin`.
        rescale: boxes in pixels of the original image.
        with_nms: False keeps all candidates.
    """
    candidates = [
        select_candidates(
            level,
            cfg["score_thr"],
            cfg.get("nms_pre", -1),
            cfg.get("nms_pre_by", "location"),
            cfg.get("score_thr_on", "score"),
        )
        for level in levels
    ]
    boxes, scores, labels = (torch.cat(parts) for parts in zip(*candidates, strict=True))
    if rescale:
        factors = 2 * tuple(meta["scale_factor"])  # no tensor, which would wait for the device
        boxes = torch.stack([boxes[:, side] / factor for side, factor in enumerate(factors)], 1)
    if cfg.get("min_bbox_size", -1) >= 0:
        # One selection for all three tensors, so that the device is waited for once
        kept = (boxes[:, 2:] - boxes[:, :2] > cfg["min_bbox_size"]).all(1).nonzero().squeeze(1)
        boxes, scores, labels = boxes[kept], scores[kept], labels[kept]
    if with_nms:
        kept = batched_nms(boxes, scores, labels, cfg["nms"]["iou_threshold"])[: cfg["max_per_img"]]
        best = boxes[kept]
        if cfg.get("score_voting", False):
            best = vote(best, labels[kept], boxes, scores, labels)
        boxes, scores, labels = best, scores[kept], labels[kept]
    return InstanceData(bboxes=boxes, scores=scores, labels=labels)
