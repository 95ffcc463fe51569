"""Figure 1: detections, score map and IoU map of the given detectors on one image, chosen by rule."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from mmdet.structures import DetDataSample

from tood.analysis.maps import (
    Candidate,
    FigureRow,
    InstanceMaps,
    choose_instance,
    draw_figure1,
    instance_maps,
)
from tood.evaluation.detection import dense_predictions
from tood.evaluation.trained_run import Trained, evaluation_parser, load_trained

# An instance that the baseline misses has its best anchor anywhere; it illustrates nothing.
LEAST_SCORE = 0.05
# The paper's figure shows a pizza on a dining table; where the data has both on an image, so does ours.
PREFERRED = {"dining table", "pizza"}


def maps_of(
    trained: Trained, label: str, workers: int, indices: Sequence[int]
) -> Iterator[tuple[DetDataSample, list[InstanceMaps | None]]]:
    """Each image with the maps of all its objects."""
    predictions = dense_predictions(
        trained.model, trained.dataset, device=trained.device, label=label, workers=workers, indices=indices
    )
    for sample, levels in predictions:
        levels = [
            level._replace(
                **{f: getattr(level, f).cpu() for f in ("scores", "confidence", "boxes", "points")}
            )
            for level in levels
        ]
        objects = sample.gt_instances = sample.gt_instances.cpu()
        yield (
            sample,
            [
                instance_maps(levels, objects.bboxes.float(), objects.labels, g, sample.img_shape[:2])
                for g in range(len(objects))
            ],
        )


def choose(baseline: Trained, name: str, workers: int) -> tuple[int, int]:
    """Index of an image and of an object on it, by the rule of `choose_instance`."""
    classes = baseline.dataset.metainfo["classes"]
    preferred = [
        index
        for index in baseline.indices
        if {classes[i["bbox_label"]] for i in baseline.dataset.get_data_info(index)["instances"]} >= PREFERRED
    ]
    indices = preferred or baseline.indices
    label = f"figure 1, {name} on {len(indices)} images"
    found = [
        (Candidate(index, instance, maps.distance), maps.classification.score)
        for index, (_, objects) in zip(indices, maps_of(baseline, label, workers, indices), strict=True)
        for instance, maps in enumerate(objects)
        if maps is not None
    ]
    detected = [candidate for candidate, score in found if score >= LEAST_SCORE]
    chosen = choose_instance(detected or [candidate for candidate, _ in found])
    return chosen.image_id, chosen.annotation_id


def row(trained: Trained, name: str, index: int, instance: int) -> FigureRow:
    """One detector's row of the figure."""
    ((sample, objects),) = maps_of(trained, f"figure 1, {name}", 0, [index])
    maps = objects[instance]
    if maps is None:
        raise ValueError(f"figure 1: {name} predicts no box that touches the chosen object")
    pixels = trained.dataset[index]["inputs"]  # [3, H, W] BGR
    gt = sample.gt_instances
    return FigureRow(
        detector=name,
        image=pixels.flip(0).permute(1, 2, 0).numpy(),  # [H, W, 3] RGB
        maps=maps,
        gt_boxes=gt.bboxes.numpy(),
        instance=instance,
        class_name=trained.dataset.metainfo["classes"][int(gt.labels[instance])],
    )


def main() -> None:
    parser = evaluation_parser(__doc__)
    parser.add_argument("--name", action="append", required=True, help="of each detector, baseline first")
    parser.add_argument("--png", type=Path, required=True)
    parser.add_argument("--pdf", type=Path, required=True)
    args = parser.parse_args()
    try:
        detectors = [load_trained(args, which) for which in range(len(args.name))]
        index, instance = choose(detectors[0], args.name[0], args.workers)
        rows = [
            row(trained, name, index, instance) for trained, name in zip(detectors, args.name, strict=True)
        ]
    except (RuntimeError, ValueError) as error:
        sys.exit(f"figure 1: {error}")
    draw_figure1(rows, args.png, args.pdf)


if __name__ == "__main__":
    main()
