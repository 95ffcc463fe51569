"""TOOD's head in mmdet: T-head predictions, trained by task alignment learning after an ATSS warm-up."""

from typing import Any, NamedTuple

import torch
from mmcv.cnn import Scale
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.registry import MODELS as MMDET_MODELS
from mmdet.registry import TASK_UTILS as MMDET_TASK_UTILS
from mmdet.utils import reduce_mean
from mmengine.structures import InstanceData
from torch import Tensor, nn

from tood.models.common.atss_assigner import match_batch, match_image
from tood.models.common.box_coders import DeltaCodec, DistanceCodec, anchor_centres, centerness_target
from tood.models.common.dense_level import DenseLevel, grid_of
from tood.models.common.dense_prediction import DensePredictionMixin
from tood.models.common.divisors import Divisors
from tood.models.common.pairs import Objects, objects_of, owners
from tood.models.common.precision import without_autocast
from tood.models.common.registry import MODELS
from tood.models.tood.losses import ScoreTargets, sum_of_focal_loss_with_prob, sum_of_task_aligned_focal_loss
from tood.models.tood.spatial_alignment import align_boxes, align_scores, keep_valid
from tood.models.tood.t_head import GROUP_NORM, HeadMaps, Predictor, THead, in_single
from tood.models.tood.task_alignment import Matches, normalise_alignment, task_aligned_match


class TOODTargets(NamedTuple):
    """The training targets of B images and A anchors; entries of P that are not positive are ignored."""

    scores: ScoreTargets  # of P: t-hat, or 1 in the warm-up
    boxes: Tensor  # [P, 4] pixels
    box_weights: Tensor  # [P] t-hat, or the centerness in the warm-up; 0 where not positive
    anchor_weights: Tensor  # [B, A] of the classification loss; 0 in the padding outside an image


@MODELS.register_module()
class TOODHead(DensePredictionMixin, BaseDenseHead):
    """T-head + TAL, anchor-free or anchor-based; keyword-compatible with mmdet's `TOODHead`.

    The training loop calls `set_progress`: the epoch decides between the ATSS warm-up of the released code
    and TAL. With mmdet's Runner, detector `tood.TOOD` and `SetEpochInfoHook` do so.

    Args:
        num_classes: of objects, without background.
        in_channels: of the pyramid features.
        anchor_generator: mmdet configuration with one anchor per location.
        bbox_coder: mmdet configuration, used if `anchor_type` is "anchor_based".
        loss_cls: its `beta` is gamma of Eq. 11, its `loss_weight` multiplies the loss.
        loss_bbox: mmdet configuration of Eq. 12's box loss.
        initial_loss_cls: `gamma`, `alpha` and `loss_weight` of the warm-up's focal loss.
        feat_channels, stacked_convs, conv_cfg, norm_cfg, num_dcn: as `THead`.
        anchor_type: "anchor_free" or "anchor_based".
        keep_inverted: keep boxes that Eq. 6 turned inside out, as the code of the paper did.
        train_cfg: `initial_epoch` (epochs of warm-up; the paper's wording is 0, None never ends it),
            `initial_assigner`, `assigner.topk` (m), `alpha`, `beta` (Eq. 9), `allowed_border`, `pos_weight`;
            and of this package `conflict` and `centre_in_box` (see `task_aligned_match`) and
            `normaliser_min` (a smaller sum of t-hat is raised to it; default 1 as in mmdet).
        test_cfg: see `DensePredictionMixin`.

    Raises:
        ValueError: more than one anchor per location, an unknown `anchor_type`, or no `bbox_coder` where the
            head is anchor-based.
    """

    assigns_by_prediction = True

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        anchor_generator: dict,
        loss_cls: dict,
        loss_bbox: dict,
        bbox_coder: dict | None = None,
        initial_loss_cls: dict | None = None,
        feat_channels: int = 256,
        stacked_convs: int = 6,
        conv_cfg: dict | None = None,
        norm_cfg: dict | None = GROUP_NORM,
        num_dcn: int = 0,
        anchor_type: str = "anchor_free",
        keep_inverted: bool = False,
        train_cfg: dict | None = None,
        test_cfg: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.num_classes = num_classes
        self.prior_generator = MMDET_TASK_UTILS.build(anchor_generator)
        if set(self.prior_generator.num_base_priors) != {1}:
            raise ValueError(
                f"TOOD uses one anchor per location, anchor_generator gives "
                f"{self.prior_generator.num_base_priors}: set ratios=[1.0], scales_per_octave=1"
            )
        self.codec: DistanceCodec | DeltaCodec
        if anchor_type == "anchor_free":
            self.codec = DistanceCodec()
        elif anchor_type == "anchor_based":
            if bbox_coder is None:
                raise ValueError("anchor_type is 'anchor_based', which needs a bbox_coder")
            self.codec = DeltaCodec(bbox_coder)
        else:
            raise ValueError(f"anchor_type is {anchor_type!r}; 'anchor_free' or 'anchor_based'")
        self.predictor = self._build_predictor(
            num_classes=num_classes,
            in_channels=in_channels,
            feat_channels=feat_channels,
            layers=stacked_convs,
            conv_cfg=conv_cfg,
            norm_cfg=norm_cfg,
            **({"num_dcn": num_dcn} if num_dcn else {}),
        )
        self.scales = nn.ModuleList(Scale(1.0) for _ in self.prior_generator.strides)
        self.keep_inverted = keep_inverted
        self.loss_cls = loss_cls
        self.initial_loss_cls = initial_loss_cls or dict(gamma=2.0, alpha=0.25, loss_weight=1.0)
        self.loss_bbox = MMDET_MODELS.build(loss_bbox)
        self.train_cfg = train_cfg or {}
        self.test_cfg = test_cfg or {}
        self.epoch: int | None = None
        if train_cfg:
            self.initial_assigner = MMDET_TASK_UTILS.build(train_cfg["initial_assigner"])

    def _build_predictor(self, **kwargs: Any) -> Predictor:
        return THead(**kwargs)

    def init_weights(self) -> None:
        """Draw the weights as the released code does."""
        self.predictor.init_weights()

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, from 0, that the next losses belong to."""
        self.epoch = epoch

    def set_progress(self, epoch: int, progress: float) -> None:
        """The epoch ends the warm-up."""
        self.set_epoch(epoch)

    def warming_up(self) -> bool:
        """Whether ATSS assigns the samples in this epoch.

        Raises:
            RuntimeError: the epoch was never set.
        """
        if self.epoch is None:
            raise RuntimeError(
                "the head does not know the epoch: call set_epoch, or with mmdet's Runner use the "
                "detector tood.TOOD and custom_hooks=[dict(type='SetEpochInfoHook')]"
            )
        last: int | None = self.train_cfg["initial_epoch"]
        return last is None or self.epoch < last

    def forward(self, feats: tuple[Tensor, ...]) -> tuple[list[Tensor], list[Tensor]]:
        """Aligned predictions of each level.

        Args:
            feats: levels of [B, in_channels, H, W].

        Returns:
            scores, levels of [B, num_classes, H, W] in [0, 1]; boxes, levels of [B, 4, H, W] as
            (x1, y1, x2, y2) in units of the level's stride
        """
        scores, boxes = zip(*(self._forward_level(i, x) for i, x in enumerate(feats)), strict=True)
        return list(scores), list(boxes)

    def _forward_level(self, level: int, x: Tensor) -> tuple[Tensor, Tensor]:
        maps = in_single(self.predictor(x))
        with without_autocast(x):
            return self._aligned(level, maps)

    def _aligned(self, level: int, maps: HeadMaps) -> tuple[Tensor, Tensor]:
        stride = self.prior_generator.strides[level][0]
        raw = maps.regression
        anchors = self.prior_generator.single_level_grid_priors(
            grid_of(raw), level, dtype=raw.dtype, device=raw.device
        )
        boxes = self.codec.decode(raw, self.scales[level], anchors, stride)
        if maps.prob_logits is None or maps.offsets is None:
            return maps.cls_logits.sigmoid(), boxes
        aligned = align_boxes(boxes, maps.offsets)
        if not self.keep_inverted:
            aligned = keep_valid(aligned, boxes)
        return align_scores(maps.cls_logits, maps.prob_logits), aligned

    @property
    def divisors(self) -> Divisors:  # type: ignore[override]  # here it changes with the phase
        """In the aligned phase the sum of t-hat divides both losses."""
        if self.epoch is None:  # tracing reads all properties; a loss says what is missing
            return super().divisors
        return Divisors.TARGETS if self.warming_up() else Divisors.SHARED

    def divisor(self, normaliser: Tensor) -> Tensor:
        """The divisor of a loss: its normaliser, but at least the smallest value that is allowed."""
        return normaliser.clamp(min=self.train_cfg.get("normaliser_min", 1.0))

    @torch.no_grad()
    def divisors_from_targets(
        self, grids: list[tuple[int, int]], gts: list[InstanceData], metas: list[dict], like: Tensor
    ) -> list[Tensor]:
        """The divisors of both losses in the warm-up."""
        priors = self.prior_generator.grid_priors(grids, dtype=like.dtype, device=like.device)
        of_scores, _, box_weights = self._warm_up_targets(priors, grids, gts, metas, objects_of(gts, like))
        return [torch.stack([of_scores.targets.sum(), box_weights.sum()])]

    def loss_by_feat(
        self,
        scores: list[Tensor],
        boxes: list[Tensor],
        batch_gt_instances: list[InstanceData],
        batch_img_metas: list[dict],
        batch_gt_instances_ignore: list[InstanceData] | None = None,
    ) -> dict[str, Tensor]:
        """`loss_cls` and `loss_bbox` of a batch; arguments as `forward` returns and mmdet passes them.

        Raises:
            RuntimeError: the epoch was never set.
        """
        strides = [stride[0] for stride in self.prior_generator.strides]
        pixels = torch.cat(
            [level.flatten(2) * stride for level, stride in zip(boxes, strides, strict=True)], 2
        )  # [B, 4, A]
        targets = self._targets(scores, pixels, batch_gt_instances, batch_img_metas)
        anchors, _, _, positive = targets.scores  # [P] each
        if self.warming_up():
            loss = self.initial_loss_cls
            loss_cls = sum_of_focal_loss_with_prob(
                scores, targets.scores, targets.anchor_weights, loss["gamma"], loss["alpha"]
            )
        else:
            loss = self.loss_cls
            loss_cls = sum_of_task_aligned_focal_loss(
                scores, targets.scores, targets.anchor_weights, loss["beta"]
            )
        A = pixels.shape[2]
        predicted = pixels[anchors // A, :, anchors % A]  # [P, 4]
        loss_bbox = self.loss_bbox(
            # Entries that are not positive have neither a loss nor a gradient, whatever was predicted
            torch.where(positive[:, None], predicted, targets.boxes),
            targets.boxes,
            reduction_override="none",  # with weights, mmdet would test their signs and wait
        )  # [P]
        # Without pairs mmdet's loss has no gradient; then parameters of a single process would have none
        total_bbox = (loss_bbox * targets.box_weights).sum() if len(anchors) else predicted.sum()
        sums = torch.stack([targets.scores.targets.sum(), targets.box_weights.sum()])
        of_cls, of_bbox = self.divisor(reduce_mean(sums))
        return {"loss_cls": loss_cls * loss["loss_weight"] / of_cls, "loss_bbox": total_bbox / of_bbox}

    @torch.no_grad()
    def _targets(
        self, scores: list[Tensor], boxes: Tensor, gts: list[InstanceData], metas: list[dict]
    ) -> TOODTargets:
        """Targets for predictions: levels of [B, C, H, W], and [B, 4, A] in pixels."""
        grids = [grid_of(level) for level in scores]
        priors = self.prior_generator.grid_priors(grids, dtype=boxes.dtype, device=boxes.device)
        inside = torch.stack([self._inside(grids, priors, meta) for meta in metas])  # [B, A]
        objects = objects_of(gts, boxes)
        if self.warming_up():
            of_scores, gt_boxes, box_weights = self._warm_up_targets(priors, grids, gts, metas, objects)
        else:
            of_scores, gt_boxes = self._aligned_targets(scores, boxes, priors, inside, objects)
            box_weights = of_scores.targets
        weights = inside.to(scores[0].dtype)
        if self.train_cfg["pos_weight"] > 0:
            positive = owners(of_scores.anchors[:, None], of_scores.positive[:, None], inside.numel()) >= 0
            weights = torch.where(positive.view_as(inside), self.train_cfg["pos_weight"], weights)
        return TOODTargets(of_scores, gt_boxes, box_weights, weights)

    def _aligned_targets(
        self, scores: list[Tensor], boxes: Tensor, priors: list[Tensor], inside: Tensor, objects: Objects
    ) -> tuple[ScoreTargets, Tensor]:
        """TAL's targets of scores and boxes [P, 4]: m entries for each object."""
        matches = self._match(scores, boxes, priors, inside, objects)
        m = matches.anchors.shape[1]
        of_scores = ScoreTargets(
            matches.anchors.flatten(),
            objects.labels.repeat_interleave(m),
            normalise_alignment(matches).flatten(),
            matches.positive.flatten(),
        )
        return of_scores, objects.boxes.repeat_interleave(m, 0)

    def _warm_up_targets(
        self,
        priors: list[Tensor],
        grids: list[tuple[int, int]],
        gts: list[InstanceData],
        metas: list[dict],
        objects: Objects,
    ) -> tuple[ScoreTargets, Tensor, Tensor]:
        """Targets of scores, boxes [P, 4] and weights of boxes [P] by the initial assigner's candidates."""
        rows = self._rows_inside(grids, priors, metas)
        anchors, owner, positive = match_batch(self.initial_assigner, priors, rows, gts)  # [P] each
        of_scores = ScoreTargets(anchors, objects.labels[owner], positive.to(objects.boxes), positive)
        gt_boxes = objects.boxes[owner]  # [P, 4]
        centres = anchor_centres(torch.cat(priors))  # [A, 2]
        centerness = centerness_target(centres[anchors % len(centres)], gt_boxes)
        return of_scores, gt_boxes, torch.where(positive, centerness, 0)

    def _match(
        self, scores: list[Tensor], boxes: Tensor, priors: list[Tensor], inside: Tensor, objects: Objects
    ) -> Matches:
        cfg = self.train_cfg
        return task_aligned_match(
            [level.detach() for level in scores],
            boxes.detach(),
            anchor_centres(torch.cat(priors)),
            inside,
            objects,
            alpha=cfg["alpha"],
            beta=cfg["beta"],
            topk=cfg["assigner"]["topk"],
            conflict=cfg.get("conflict", "iou"),
            centre_in_box=cfg.get("centre_in_box", True),
        )

    def _assign(self, levels: list[DenseLevel], priors: list[Tensor], gt: InstanceData, meta: dict) -> Tensor:
        grids = [level.grid for level in levels]
        if self.warming_up():
            (rows,) = self._rows_inside(grids, priors, [meta])
            return match_image(self.initial_assigner, priors, rows, gt)
        inside = self._inside(grids, priors, meta)  # [A]
        scores = [level.scores.T[None] for level in levels]  # [1, C, H*W] each
        boxes = torch.cat([level.boxes for level in levels]).T[None]  # [1, 4, A]
        matches = self._match(scores, boxes, priors, inside[None], objects_of([gt], boxes))
        return owners(matches.anchors, matches.positive, len(inside))

    def _dense_level(self, level: int, outs: tuple[Tensor, ...], priors: Tensor) -> DenseLevel:
        scores, boxes = outs
        stride = self.prior_generator.strides[level][0]
        flat_scores = scores.flatten(1).T  # [H*W, C]
        return DenseLevel(
            flat_scores,
            flat_scores,
            boxes.flatten(1).T * stride,  # [H*W, 4]
            anchor_centres(priors),
            grid_of(scores),
            stride,
        )
