"""The boxes after NMS: counts of correct, redundant and error boxes of Table 6 (section 4.3).

The paper counts correct boxes (IoU >= 0.5), redundant boxes (IoU > 0.5) and errors (0.1 < IoU < 0.5), and
does not say how correct and redundant boxes differ. Here that is COCO's own matching, so `correct` are the
true positives of AP50. For one image and class, by falling score, a box is the first of:

* correct: IoU >= 0.5 with an instance not yet taken; it takes the one it overlaps most
* ignored: at least half of it lies in a crowd region (pycocotools' dtIgnore)
* redundant: IoU >= 0.5 with an instance, all such being taken
* error: 0.1 < IoU < 0.5 with the instance it overlaps most
* background: the rest, with every box of a class absent from the image
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pycocotools import mask

from tood.evaluation.dense_ids import require_known

KINDS = ("correct", "redundant", "ignored", "error", "background")


@dataclass(frozen=True)
class CountOptions:
    """Which boxes are counted against which; the defaults are this project's definition.

    Raises:
        ValueError: `crowd` is neither reading.
    """

    class_aware: bool = True  # False: a box may take an instance of any class
    score_threshold: float | None = None  # count only scores above it
    crowd: Literal["ignore", "drop"] = "ignore"  # drop: as if crowd regions were not annotated
    # COCO's maxDets: the highest scores of an image and class (of an image, if not class_aware).
    # None counts all.
    max_per_image: int | None = 100

    def __post_init__(self) -> None:
        if self.crowd not in ("ignore", "drop"):
            raise ValueError(f"crowd is {self.crowd!r}, not 'ignore' or 'drop'")


def count_boxes(gt: dict, detections: list[dict], options: CountOptions) -> dict[str, int]:
    """Count the detections of a data set by kind (Table 6, its last three columns).

    Args:
        gt: COCO annotations: images, annotations, categories; boxes (x, y, width, height) in pixels.
        detections: COCO results {image_id, category_id, bbox, score}, in the same pixels.
        options: the reading.

    Returns:
        The number of each of KINDS; their sum is the number of detections that pass the score threshold and
        `max_per_image`.

    Raises:
        ValueError: a detection is on an image or of a category that `gt` does not have.
    """
    counts = Counter(kind for _, kind in name_boxes(gt, detections, options))
    return {kind: counts[kind] for kind in KINDS}


def name_boxes(gt: dict, detections: list[dict], options: CountOptions) -> Iterator[tuple[float, str]]:
    """Score and kind of each detection that is counted; arguments and errors as `count_boxes`."""
    require_known(gt, detections)
    annotations = gt["annotations"]
    if options.crowd == "drop":
        annotations = [a for a in annotations if not a.get("iscrowd", 0)]
    if options.score_threshold is not None:
        detections = [d for d in detections if d["score"] > options.score_threshold]

    instances = _by_image(annotations, options.class_aware)
    for key, boxes in _by_image(detections, options.class_aware).items():
        boxes.sort(key=lambda detection: -detection["score"])  # stable, as COCO's mergesort
        kept = boxes[: options.max_per_image]
        yield from zip((box["score"] for box in kept), _kinds(kept, instances[key]), strict=True)


def _by_image(entries: Iterable[dict], class_aware: bool) -> defaultdict[tuple, list[dict]]:
    """Group annotations or results by image, and by class if `class_aware`, keeping their order."""
    groups = defaultdict(list)
    for entry in entries:
        groups[entry["image_id"], entry["category_id"] if class_aware else None].append(entry)
    return groups


def _kinds(detections: list[dict], annotations: list[dict]) -> Iterator[str]:
    """Name the kind of each of D detections of one image and class, given by falling score."""
    crowd = np.array([a.get("iscrowd", 0) for a in annotations], dtype=bool)  # [G]
    # With a crowd, "IoU" is the share of the detection that lies inside.
    ious = mask.iou([d["bbox"] for d in detections], [a["bbox"] for a in annotations], crowd)
    ious = np.reshape(ious, (len(detections), len(annotations)))  # [D, G]
    in_crowd = ious[:, crowd].max(axis=1, initial=0) >= 0.5  # [D]
    ious = ious[:, ~crowd]  # [D, R]
    best = ious.max(axis=1, initial=0)  # [D]
    free = np.ones(ious.shape[1], dtype=bool)  # [R]
    for d, overlaps in enumerate(ious):
        available = np.flatnonzero(free & (overlaps >= 0.5))
        if len(available):
            # With equal overlaps COCO takes the last instance.
            free[available[::-1][overlaps[available[::-1]].argmax()]] = False
            yield "correct"
        elif in_crowd[d]:
            yield "ignored"
        elif best[d] >= 0.5:
            yield "redundant"
        elif best[d] > 0.1:
            yield "error"
        else:
            yield "background"
