"""COCO AP of a trained run, and the detections that it is of."""

from pathlib import Path

from tood.evaluation.detection import Observer, coco_ap, detect
from tood.evaluation.trained_run import Trained, load_trained
from tood.runtime.files import write_json
from tood.study.jobs import Execution, MeasuringJob
from tood.study.provenance import measured_digests


def evaluate(job: MeasuringJob, execution: Execution, detections: Path, output: Path) -> None:
    """Detect on the validation images and measure AP.

    Args:
        job: what is measured.
        execution: how it is computed.
        detections: written; `image_ids`, and `detections` as COCO results.
        output: written; the metrics of `coco_ap`, and `digests`.

    Raises:
        RuntimeError: as `load_trained`.
    """
    evaluate_trained(load_trained(job, execution), job, execution, detections, output)


def evaluate_trained(
    trained: Trained,
    job: MeasuringJob,
    execution: Execution,
    detections: Path,
    output: Path,
    observe: Observer | None = None,
) -> dict:
    """As `evaluate`, with an observer of the pass; returns what it wrote to `detections`."""
    found, image_ids = detect(
        trained.model,
        trained.dataset,
        device=trained.device,
        label=f"evaluate {job.run}",
        batch_size=job.batch_size,
        workers=execution.workers,
        indices=trained.indices,
        observe=observe,
    )
    evaluated = {"image_ids": image_ids, "detections": found}
    write_json(detections, evaluated)
    digests = measured_digests(job.model, job.evaluation)
    write_json(output, {**coco_ap(trained.annotations, found, image_ids), "digests": digests})
    return evaluated
