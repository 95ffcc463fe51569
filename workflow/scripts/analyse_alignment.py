"""Table 6: how well classification and localisation agree, before NMS and after."""

import sys
from dataclasses import replace
from pathlib import Path

import torch

from tood.analysis.alignment import AlignmentOptions, instance_alignment, summarise
from tood.analysis.box_counts import CountOptions, count_boxes
from tood.evaluation.detection import dense_predictions
from tood.evaluation.trained_run import Trained, evaluation_parser, load_trained
from tood.runtime.files import read_json, write_json
from tood.study.provenance import measured_identity

# The default reading of the paper's definitions, then one change at a time.
ALIGNMENT = {
    "default": {},
    "ownership=centre": {"ownership": "centre"},
    "ownership=any": {"ownership": "any"},
    "iou_floor=0.1": {"iou_floor": 0.1},
    "iou_floor=0.5": {"iou_floor": 0.5},
    "correlation=value": {"correlation": "value"},
    "class_aware=false": {"class_aware": False},
    "empty_pools=drop": {"empty_pools": "drop"},
}
COUNTS = {"default": {}, "class_aware=false": {"class_aware": False}, "crowd=drop": {"crowd": "drop"}}


def alignment(trained: Trained, label: str, workers: int) -> dict[str, dict]:
    """PCC and IoU under each reading, and by classification score alone (no centerness)."""
    options = {name: replace(AlignmentOptions(), **change) for name, change in ALIGNMENT.items()}
    found = {name: [] for name in [*options, "confidence=classification"]}
    for sample, levels in dense_predictions(
        trained.model,
        trained.dataset,
        device=trained.device,
        label=label,
        workers=workers,
        indices=trained.indices,
    ):
        confidence, scores, boxes, points = (
            torch.cat(parts).cpu()
            for parts in zip(
                *((level.confidence, level.scores, level.boxes, level.points) for level in levels),
                strict=True,
            )
        )
        objects = sample.gt_instances.cpu()
        gt = objects.bboxes.to(boxes), objects.labels
        for name, option in options.items():
            found[name].append(instance_alignment(confidence, boxes, points, *gt, option))
        found["confidence=classification"].append(
            instance_alignment(scores, boxes, points, *gt, options["default"])
        )
    return {name: summarise(parts, options.get(name, options["default"])) for name, parts in found.items()}


def main() -> None:
    parser = evaluation_parser(__doc__)
    parser.add_argument("--evaluation", required=True, help="digest of how this measures")
    parser.add_argument("--detections", type=Path, required=True, help="as evaluate.py wrote them")
    parser.add_argument("--output", type=Path, required=True, help="metrics, written")
    parser.add_argument("--variants", type=Path, required=True, help="other readings, written")
    args = parser.parse_args()
    try:
        trained = load_trained(args)
    except RuntimeError as error:
        sys.exit(f"analyse: {error}")
    before = alignment(trained, f"analyse {args.settings[0]['run']['id']}", args.workers)
    evaluated = read_json(args.detections)
    truth = read_json(trained.annotations)
    chosen = set(evaluated["image_ids"])
    for key, name in (("images", "id"), ("annotations", "image_id")):
        truth[key] = [entry for entry in truth[key] if entry[name] in chosen]
    after = {
        name: count_boxes(truth, evaluated["detections"], replace(CountOptions(), **change))
        for name, change in COUNTS.items()
    }
    write_json(
        args.output,
        {
            "PCC (top-50)": before["default"]["pcc"],
            "IoU (top-10)": before["default"]["iou"],
            "#Correct boxes": after["default"]["correct"],
            "#Redundant boxes": after["default"]["redundant"],
            "#Error boxes": after["default"]["error"],
            "identity": measured_identity(args.model[0], args.evaluation),
        },
    )
    write_json(args.variants, {"before NMS": before, "after NMS": after})


if __name__ == "__main__":
    main()
