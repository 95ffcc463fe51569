"""COCO AP of a trained run, and its detections."""

from tood.evaluation.detection import Observer, coco_ap, detect
from tood.evaluation.trained_run import Trained, load_trained
from tood.ledger.provenance import measured_digests
from tood.runtime.files import write_json
from tood.study.jobs import Execution, MeasuringJob
from tood.study.paths import RunPaths


def evaluate(job: MeasuringJob, execution: Execution, files: RunPaths) -> None:
    """Detect on the validation images and measure AP.

    Args:
        job: what is measured.
        execution: how it is computed.
        files: of these are written `detections`, `evaluated_images`, and `ap`: the metrics of `coco_ap`, and
            `digests`.

    Raises:
        RuntimeError: as `load_trained`.
    """
    evaluate_trained(load_trained(job, execution), job, execution, files)


def evaluate_trained(
    trained: Trained,
    job: MeasuringJob,
    execution: Execution,
    files: RunPaths,
    observe: Observer | None = None,
) -> tuple[list[dict], list[int]]:
    """As `evaluate`, with an observer of the pass; returns the detections and the ids of their images."""
    detections, image_ids = detect(
        trained.model,
        trained.dataset,
        device=trained.device,
        label=f"evaluate {job.run}",
        batch_size=job.batch_size,
        workers=execution.workers,
        indices=trained.indices,
        observe=observe,
    )
    write_json(files.detections, detections)
    write_json(files.evaluated_images, image_ids)
    digests = measured_digests(job.model, job.evaluation)
    write_json(files.ap, {**coco_ap(trained.annotations, detections, image_ids), "digests": digests})
    return detections, image_ids
