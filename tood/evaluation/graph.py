"""A detector as one graph for other programs, from pixels to boxes, for any number and size of images.

Everything that `Detector.detect` computes after the resize is in the graph: normalisation, network, decoding,
and NMS if wanted. A test compares both.
"""

from typing import NamedTuple

import torch
from mmdet.models.detectors import SingleStageDetector
from torch import Tensor, nn
from torchvision.ops import nms as torchvision_nms

from tood.models.common.dense_prediction import DensePredictionMixin
from tood.study.declarations import ExperimentError


class Selection(NamedTuple):
    """How anchors become detections: mmdet's `test_cfg` with the keys of `DensePredictionMixin`."""

    score_thr: float
    on_confidence: bool  # what the threshold is compared with; else with the classification score
    before: int  # of a level, that go to NMS
    by: str
    iou: float
    detections: int  # of an image, at most
    extended: bool  # boxes without an area are left out

    @classmethod
    def of(cls, cfg: dict) -> "Selection":
        """That of a `test_cfg`.

        Raises:
            ExperimentError: it has a step that the graph lacks.
        """
        kind, least = cfg["nms"].get("type", "nms"), cfg.get("min_bbox_size", -1)
        lacking = (
            f"NMS of the type {kind!r}" * (kind != "nms"),
            "score voting" * bool(cfg.get("score_voting")),
            f"a least side of {least} pixels" * (least > 0),
            "all anchors before NMS" * (cfg.get("nms_pre", -1) <= 0),
        )
        if steps := ", ".join(filter(None, lacking)):
            raise ExperimentError(f"--nms: the model asks for {steps}, which the graph lacks; omit --nms")
        return cls(
            cfg["score_thr"],
            cfg.get("score_thr_on", "score") == "confidence",
            cfg["nms_pre"],
            cfg.get("nms_pre_by", "location"),
            cfg["nms"]["iou_threshold"],
            cfg["max_per_img"],
            least == 0,
        )


class Graph(nn.Module):
    """A detector of the suite, for `torch.export`.

    Args:
        model: with a head of `DensePredictionMixin`.
        cfg: its `test_cfg`.
        nms: whether detections are selected in the graph.

    Raises:
        ExperimentError: the head is none of the suite's, or `cfg` has a step that the graph lacks.
    """

    def __init__(self, model: SingleStageDetector, cfg: dict, nms: bool) -> None:
        super().__init__()
        if not isinstance(model.bbox_head, DensePredictionMixin):
            name = type(model.bbox_head).__name__
            raise ExperimentError(f"{name} is mmdet's own head; only heads of this suite are exported")
        self.model = model.eval()
        self.clip = cfg.get("clip", True)
        self.selection = Selection.of(cfg) if nms else None

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        """What the detector finds in images.

        Args:
            images: [B, 3, H, W] uint8 BGR at the model's input size, each at the top left; what is around it
                does not count. H and W are multiples of the model's divisor.
            sizes: [B, 2] int64 (height, width) of each image without what is around it.

        Returns:
            Without NMS: boxes [B, A, 4] as (x1, y1, x2, y2) in pixels of the input, scores [B, A, C], and
            confidence [B, A, C], which NMS ranks by. With it: boxes [B, D, 4], scores [B, D] and labels
            [B, D], by falling score; what is beyond the last detection of an image has the score 0.
        """
        levels = self._levels(images, sizes)
        if self.selection is None:
            return tuple(torch.cat(parts, 1) for parts in zip(*levels, strict=True))
        return select(levels, self.selection)

    def _levels(self, images: Tensor, sizes: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Boxes, scores and confidence of each level, in float32."""
        head = self.model.bbox_head
        outs = head(self.model.extract_feat(self._prepared(images, sizes)))
        priors = [level.float() for level in head._priors(outs)]
        levels = []
        for index, maps in enumerate(zip(*outs, strict=True)):
            boxes, scores, confidence = self._decoded(index, maps, priors[index])
            if self.clip:
                height, width = sizes[:, 0, None, None].to(boxes), sizes[:, 1, None, None].to(boxes)
                limits = torch.cat([width, height, width, height], 2)  # [B, 1, 4]
                boxes = boxes.clamp(min=0).minimum(limits)
            levels.append((boxes, scores, confidence))
        return levels

    def _prepared(self, images: Tensor, sizes: Tensor) -> Tensor:
        """As `DetDataPreprocessor`: normalised, and 0 around an image."""
        prepare = self.model.data_preprocessor
        pixels = images.flip(1) if prepare._channel_conversion else images
        normal = (
            (pixels.float() - prepare.mean) / prepare.std if prepare._enable_normalize else pixels.float()
        )
        rows = torch.arange(images.shape[2], device=images.device)
        columns = torch.arange(images.shape[3], device=images.device)
        inside = (rows < sizes[:, :1])[:, None, :, None] & (columns < sizes[:, 1:])[:, None, None, :]
        weight = next(self.model.parameters())
        return torch.where(inside, normal, float(prepare.pad_value)).to(weight.dtype)

    def _decoded(self, index: int, maps: tuple[Tensor, ...], priors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of one level of all images: boxes [B, N, 4], scores and confidence [B, N, C]."""

        # A head decodes each location alone, so the images of a batch can be below one another in one map.
        number = maps[0].shape[0]
        joined = tuple(each.float().transpose(0, 1).flatten(1, 2) for each in maps)  # [channels, B * H, W]
        level = self.model.bbox_head._dense_level(index, joined, priors.repeat(number, 1))
        boxes, scores, confidence = (
            rows.unflatten(0, (number, -1)) for rows in (level.boxes, level.scores, level.confidence)
        )
        return boxes, scores, confidence


def select(levels: list[tuple[Tensor, Tensor, Tensor]], chosen: Selection) -> tuple[Tensor, Tensor, Tensor]:
    """As `select_detections`, for several images at once; equal scores may come in another order.

    Args:
        levels: boxes [B, N, 4], scores [B, N, C] and confidence [B, N, C].
        chosen: what is selected.

    Returns:
        boxes [B, D, 4], scores [B, D], labels [B, D]; a score of 0 means no detection
    """
    candidates = [_candidates(*level, chosen) for level in levels]
    boxes, confidence = (torch.cat(parts, 1) for parts in zip(*candidates, strict=True))  # [B, N, 4 or C]
    if chosen.extended:
        confidence = torch.where((boxes[..., 2:] > boxes[..., :2]).all(2, keepdim=True), confidence, 0.0)
    by_class = confidence.transpose(1, 2).contiguous()  # [B, C, N]
    image, label, place = nms(boxes, by_class, chosen.iou).unbind(1)
    kept = torch.zeros_like(by_class)
    kept = kept.index_put((image, label, place), by_class[image, label, place])
    number = by_class.shape[2]
    padded = nn.functional.pad(kept.flatten(1), (0, chosen.detections))  # there may be fewer pairs
    scores, pairs = padded.topk(chosen.detections)  # [B, D]
    labels, places = pairs // number, pairs % number
    corners = boxes.gather(1, places[..., None].expand(-1, -1, 4))
    here = scores > 0
    return torch.where(here[..., None], corners, 0.0), scores, torch.where(here, labels, 0)


def _candidates(
    boxes: Tensor, scores: Tensor, confidence: Tensor, chosen: Selection
) -> tuple[Tensor, Tensor]:
    """As `select_candidates`: boxes [B, K, 4], and confidence [B, K, C], 0 of what is not selected."""
    limited = confidence if chosen.on_confidence else scores
    passes = limited > chosen.score_thr  # [B, N, C]
    if chosen.by == "location":
        # Levels with fewer anchors than are kept: the graph is for any size, and each keeps equally many.
        rank = nn.functional.pad(confidence.amax(2), (0, chosen.before), value=-1.0)
        kept = rank.topk(chosen.before).indices[..., None]  # [B, K, 1]
        boxes = nn.functional.pad(boxes, (0, 0, 0, chosen.before)).gather(1, kept.expand(-1, -1, 4))
        confidence = torch.where(passes, confidence, 0.0)
        confidence = nn.functional.pad(confidence, (0, 0, 0, chosen.before))
        return boxes, confidence.gather(1, kept.expand(-1, -1, confidence.shape[2]))
    rank = torch.where(passes, scores if chosen.by == "pair" else confidence, -1.0).flatten(1)  # [B, N * C]
    best = nn.functional.pad(rank, (0, chosen.before), value=-1.0).topk(chosen.before).indices
    taken = torch.zeros_like(nn.functional.pad(rank, (0, chosen.before))).scatter(1, best, 1.0)
    taken = taken[:, : rank.shape[1]].view_as(confidence) > 0
    return boxes, torch.where(taken & passes, confidence, 0.0)


@torch.library.custom_op("tood::nms", mutates_args=())
def nms(boxes: Tensor, scores: Tensor, iou: float) -> Tensor:
    """NMS of each image and class; in ONNX `NonMaxSuppression`.

    Args:
        boxes: [B, N, 4].
        scores: [B, C, N]; only those above 0 take part.
        iou: above which a box is dropped.

    Returns:
        [K, 3] int64: image, class and box of each that stays
    """
    rows = []
    for image, label in (scores > 0).any(2).nonzero().tolist():
        some = (scores[image, label] > 0).nonzero().squeeze(1)
        kept = some[torchvision_nms(boxes[image, some], scores[image, label, some], iou)]
        of_class = torch.tensor([image, label], device=boxes.device).expand(len(kept), 2)
        rows.append(torch.cat([of_class, kept[:, None]], 1))
    return torch.cat(rows) if rows else torch.zeros(0, 3, dtype=torch.int64, device=boxes.device)


@nms.register_fake
def _(boxes: Tensor, scores: Tensor, iou: float) -> Tensor:
    return boxes.new_empty(torch.library.get_ctx().new_dynamic_size(), 3, dtype=torch.int64)
