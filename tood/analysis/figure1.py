"""What Figure 1 shows: one object, chosen by rule, under each detector. `tood.analysis.maps` draws it."""

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
from tood.evaluation.trained_run import Trained, load_trained
from tood.study.jobs import Execution, Figure1Job

# An instance that the baseline misses has its best anchor anywhere; it illustrates nothing.
LEAST_SCORE = 0.05
# The paper's figure shows a pizza on a dining table; where the data has both on an image, so does ours.
PREFERRED = {"dining table", "pizza"}


def figure1(job: Figure1Job, execution: Execution, png: Path, pdf: Path) -> None:
    """Choose the object under the baseline, and draw its row under every detector.

    Args:
        job: the detectors, the baseline first.
        execution: how their predictions are computed.
        png: written.
        pdf: written.

    Raises:
        RuntimeError: as `load_trained`.
        ValueError: there is no object, or a detector predicts nothing on it.
    """
    detectors = {name: load_trained(run, execution) for name, run in job.detectors.items()}
    baseline = next(iter(detectors))
    index, instance = choose(detectors[baseline], baseline, execution.workers)
    rows = [row(trained, name, index, instance) for name, trained in detectors.items()]
    draw_figure1(rows, png, pdf)


def choose(baseline: Trained, name: str, workers: int) -> tuple[int, int]:
    """Index of an image and of an object on it, by the rule of `choose_instance`.

    Raises:
        ValueError: there is no object.
    """
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
        for index, (_, objects) in zip(indices, _maps(baseline, label, workers, indices), strict=True)
        for instance, maps in enumerate(objects)
        if maps is not None
    ]
    if not found:
        raise ValueError(f"{name} predicts no box that touches any object of {len(indices)} images")
    detected = [candidate for candidate, score in found if score >= LEAST_SCORE]
    chosen = choose_instance(detected or [candidate for candidate, _ in found])
    return chosen.image_id, chosen.annotation_id


def row(trained: Trained, name: str, index: int, instance: int) -> FigureRow:
    """One detector's row of the figure.

    Args:
        trained: the detector.
        name: its name in the figure.
        index: of the image in the dataset.
        instance: of the object on the image.

    Raises:
        ValueError: the detector predicts no box that touches the object.
    """
    ((sample, objects),) = _maps(trained, f"figure 1, {name}", 0, [index])
    maps = objects[instance]
    if maps is None:
        raise ValueError(f"{name} predicts no box that touches the chosen object")
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


def _maps(
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
