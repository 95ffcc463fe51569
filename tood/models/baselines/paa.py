"""mmdet's PAA head with this package's prediction path, with and without IoU prediction (Tables 2 and 5)."""

from itertools import accumulate
from typing import Any, NamedTuple

import torch
from mmdet.models.dense_heads import PAAHead as MMDetPAAHead
from mmdet.models.task_modules.assigners import MaxIoUAssigner
from mmengine.structures import InstanceData
from torch import Tensor, nn

from tood.models.common.anchor_boxes import AnchorBoxesMixin, rows_of_anchors, rows_of_batch
from tood.models.common.dense_level import DenseLevel, grid_of
from tood.models.common.divisors import Divisors
from tood.models.common.max_iou import IGNORED, assign_by_iou
from tood.models.common.pairs import objects_of, paired_iou
from tood.models.common.positives import Positives
from tood.models.common.preprocessor import sent
from tood.models.common.registry import MODELS
from tood.models.common.towers import TowersMixin

LEAST_IOU = 1e-12  # the weight of each box


class Chosen(NamedTuple):
    """The training targets of B images with A anchors each and P positives, image after image."""

    places: Tensor  # [P] int64, b * A + a for anchor a of image b
    counts: list[int]  # [B] positives of each image
    objects: Tensor  # [P] index among the objects of the image
    labels: Tensor  # [B * A], the number of classes for the background
    label_weights: Tensor  # [B * A] of the classification loss
    anchors: Tensor  # [P, 4] pixels
    boxes: Tensor  # [P, 4] of the objects, pixels


class EqualWeights(nn.Module):
    """A box loss that counts all boxes alike and ignores the weights and divisor of mmdet's head.

    Args:
        loss: of mmdet.
    """

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, boxes: Tensor, targets: Tensor, *weights: Tensor, **options: Any) -> Tensor:
        """The mean over [P, 4] boxes, or the loss of each box if the head scores anchors by it."""
        if options.get("reduction_override") == "none":
            return self.loss(boxes, targets, *weights, **options)
        return self.loss(boxes, targets)


@MODELS.register_module()
class PAAHead(TowersMixin, AnchorBoxesMixin, MMDetPAAHead):
    """Parallel head + PAA; configuration as mmdet's `PAAHead`.

    The confidence is the geometric mean of the score and the IoU. mmdet's threshold is on it
    (`test_cfg.score_thr_on="confidence"`), that of the authors' code on the score.

    Args:
        use_iou_pred: predict the IoU of each box and rank by the geometric mean of it and the score, as
            mmdet always does. Without it the branch, its loss and its factor are gone, and the box loss is a
            plain mean over the positives, as in the authors' code (kkhoot/PAA,
            `paa_core/modeling/rpn/paa/loss.py`); with it, IoUs weigh the boxes.
        conv_bias, dcn_on_last_conv: as in the authors' code, see `TowersMixin`.
        score_voting: always False; `test_cfg.score_voting` says whether there is voting.

    Raises:
        ValueError: `score_voting` is set.
    """

    loss_bbox: nn.Module  # of the head

    assigns_by_prediction = True
    divisors = Divisors.NONE

    def __init__(
        self,
        *args: Any,
        use_iou_pred: bool = True,
        conv_bias: bool = False,
        dcn_on_last_conv: bool = False,
        score_voting: bool = False,
        **kwargs: Any,
    ) -> None:
        if score_voting:
            raise ValueError(
                "bbox_head.score_voting of tood.PAAHead is set; set model.test_cfg.score_voting instead"
            )
        self.use_iou_pred = use_iou_pred
        self.conv_bias = conv_bias
        self.dcn_on_last_conv = dcn_on_last_conv
        super().__init__(*args, score_voting=False, **kwargs)
        if not use_iou_pred:
            self.loss_bbox = EqualWeights(self.loss_bbox)

    def _init_layers(self) -> None:
        super()._init_layers()
        if not self.use_iou_pred:
            self.atss_centerness = nn.Identity()  # its output goes nowhere

    def forward_single(self, x: Tensor, scale: nn.Module) -> tuple[Tensor, ...]:
        """Logits [B, C, H, W], deltas [B, 4, H, W] and, if predicted, IoU logits [B, 1, H, W] of a level."""
        maps = super().forward_single(x, scale)
        return maps if self.use_iou_pred else maps[:2]

    def loss_by_feat(
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        iou_preds: list[Tensor] | list[InstanceData],
        *args: Any,
        **kwargs: Any,
    ) -> dict[str, Tensor]:
        """As mmdet's; without IoU prediction there is no loss of it, and no argument for its maps."""
        if self.use_iou_pred:
            return self._losses(cls_scores, bbox_preds, iou_preds, *args, **kwargs)
        return self._losses(cls_scores, bbox_preds, None, iou_preds, *args, **kwargs)

    def _losses(
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        iou_preds: list[Tensor] | None,
        gts: list[InstanceData],
        metas: list[dict],
        ignored: list[InstanceData] | None = None,
    ) -> dict[str, Tensor]:
        """Losses of a batch; no region is ignored."""
        logits, deltas = rows_of_batch(cls_scores, self.cls_out_channels), rows_of_batch(bbox_preds, 4)
        chosen = self._chosen(cls_scores, logits, deltas, gts, metas)
        number, places = len(chosen.places), chosen.places
        losses = {
            "loss_cls": self.loss_cls(
                logits, chosen.labels, chosen.label_weights, avg_factor=max(number, len(metas))
            )
        }
        boxes = self.bbox_coder.decode(chosen.anchors, deltas[places])  # [P, 4]
        iou = paired_iou(boxes.detach(), chosen.boxes)  # [P]
        losses["loss_bbox"] = (
            self.loss_bbox(boxes, chosen.boxes, iou.clamp(min=LEAST_IOU), avg_factor=iou.sum())
            if number
            else deltas.sum() * 0
        )
        if iou_preds is not None:
            iou_logits = rows_of_batch(iou_preds, 1)  # [B * A, 1]
            losses["loss_iou"] = (
                self.loss_centerness(iou_logits[places], iou[:, None], avg_factor=number)
                if number
                else iou_logits.sum() * 0
            )
        return losses

    @torch.no_grad()
    def positives_by_feat(
        self, *outs: list[Tensor], batch_gt_instances: list[InstanceData], batch_img_metas: list[dict]
    ) -> list[Positives]:
        """The candidates that the mixture model chooses; see `DensePredictionMixin`."""
        logits, deltas = rows_of_batch(outs[0], self.cls_out_channels), rows_of_batch(outs[1], 4)
        chosen = self._chosen(outs[0], logits, deltas, batch_gt_instances, batch_img_metas)
        A = len(logits) // len(batch_img_metas)
        positives = []
        for places, objects in zip(
            chosen.places.split(chosen.counts), chosen.objects.split(chosen.counts), strict=True
        ):
            positives.append(Positives(places % A, objects, torch.ones_like(places, dtype=torch.float)))
        return positives

    @torch.no_grad()
    def _chosen(
        self,
        cls_scores: list[Tensor],
        logits: Tensor,
        deltas: Tensor,
        gts: list[InstanceData],
        metas: list[dict],
    ) -> Chosen:
        """The mixture model's choice. It is made on the host: twice per batch this waits for a GPU.

        Args:
            cls_scores: levels of [B, C, H, W].
            logits, deltas: [B * A, C] and [B * A, 4], the rows of all anchors.
            gts, metas: of the images.
        """
        grids = [grid_of(scores) for scores in cls_scores]
        priors = self.prior_generator.grid_priors(grids, dtype=deltas.dtype, device=deltas.device)
        sizes, everywhere, objects = list(map(len, priors)), torch.cat(priors), objects_of(gts, deltas)
        A = len(everywhere)
        owner = torch.cat(
            [
                self._owners(everywhere, rows, sizes, gt)
                for rows, gt in zip(self._rows_inside(grids, priors, metas), gts, strict=True)
            ]
        )  # [B * A]
        weights = (owner > IGNORED).to(logits)
        if self.train_cfg["pos_weight"] > 0:
            weights = torch.where(owner >= 0, self.train_cfg["pos_weight"], weights)

        places = (owner >= 0).nonzero().squeeze(1)  # [K]
        of_image, image = owner[places], places // A
        firsts = [0, *accumulate(len(gt) for gt in gts)][:-1]
        of_batch = of_image + sum(
            (image == b) * first for b, first in enumerate(firsts)
        )  # [K] index among the objects of the batch
        anchors = everywhere[places % A]
        gt_boxes, gt_labels = objects.boxes[of_batch], objects.labels[of_batch]
        losses = self._candidate_losses(
            logits[places],
            gt_labels,
            weights[places],
            self.bbox_coder.decode(anchors, deltas[places]),
            gt_boxes,
        )
        kept, counts = self._fit(losses, places, of_image, gt_labels, sizes, len(metas))
        places, of_batch = places[kept], of_batch[kept]
        labels = torch.full_like(owner, self.num_classes)
        labels[places] = gt_labels[kept]
        return Chosen(places, counts, of_image[kept], labels, weights, anchors[kept], gt_boxes[kept])

    def _owners(self, anchors: Tensor, rows: list[Tensor], sizes: list[int], gt: InstanceData) -> Tensor:
        """[A] the object of each anchor of one image, `NEGATIVE` or `IGNORED`; those outside are ignored."""
        starts = [0, *accumulate(sizes)]
        inside = torch.cat([level + start for level, start in zip(rows, starts, strict=False)])
        own, assigner = anchors[inside], self.assigner
        if type(assigner) is MaxIoUAssigner:
            thresholds = assigner.pos_iou_thr, assigner.neg_iou_thr, assigner.min_pos_iou
            gt_index = assign_by_iou(own, gt.bboxes.to(own), *thresholds)
        else:
            gt_index = assigner.assign(InstanceData(priors=own), gt).gt_inds - 1
        return torch.full((len(anchors),), IGNORED, device=own.device).index_copy_(0, inside, gt_index)

    def _candidate_losses(
        self, logits: Tensor, labels: Tensor, weights: Tensor, boxes: Tensor, gt_boxes: Tensor
    ) -> Tensor:
        """[K] the score by which the mixture model separates candidates; arguments are rows of candidates."""
        loss_cls = self.loss_cls(logits, labels, weights, reduction_override="none")
        return self.loss_bbox(boxes, gt_boxes, reduction_override="none") + loss_cls.sum(-1)

    def _fit(
        self,
        losses: Tensor,
        places: Tensor,
        objects: Tensor,
        labels: Tensor,
        sizes: list[int],
        images: int,
    ) -> tuple[Tensor, list[int]]:
        """Separate the K candidates of each object by mmdet's code, on the host.

        Args:
            losses, places, objects, labels: [K] of each candidate; its object within the image.
            sizes: anchors of each level.
            images: B.

        Returns:
            indices of the positives among the candidates; how many of each image
        """
        A = sum(sizes)
        # As double, which represents all of these exactly
        host = torch.stack([each.double() for each in (losses, places, objects, labels)]).cpu()
        whole = host[1:].long()
        image, anchors = whole[0] // A, [torch.empty(size, 0) for size in sizes]
        kept, counts = [], []
        for b in range(images):
            own = (image == b).nonzero().squeeze(1)
            index, of_object, label = whole[:, own]
            index = index - b * A
            everywhere = torch.full((A,), self.num_classes).index_copy_(0, index, label)
            labels_left, *_ = self.paa_reassign(
                host[0, own].to(losses.dtype),
                everywhere,
                torch.ones(A),
                torch.ones(A, 4),
                index,
                of_object,
                anchors,
            )
            kept.append(own[labels_left[index] < self.num_classes])
            counts.append(len(kept[-1]))
        return sent(torch.cat(kept), losses.device), counts

    def _dense_level(self, level: int, outs: tuple[Tensor, ...], priors: Tensor) -> DenseLevel:
        dense = super()._dense_level(level, outs[:2], priors)
        if not self.use_iou_pred:
            return dense
        iou = rows_of_anchors(outs[2], 1).sigmoid()  # [H*W, 1]
        return dense._replace(confidence=(dense.scores * iou).sqrt())
