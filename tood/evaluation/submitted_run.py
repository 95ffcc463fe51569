"""Detections of a trained run on images without annotations, as a submission to COCO's server."""

import json
from pathlib import Path

from tood.data.manifest import read_manifest
from tood.evaluation.detection import detect
from tood.evaluation.submission import ImageInfo, SubmissionError, read_image_info, write
from tood.evaluation.trained_run import load_trained
from tood.study.jobs import Execution, SubmissionJob


def write_submission(job: SubmissionJob, execution: Execution, output: Path) -> int:
    """Detect on all images of the test split, and write the submission.

    Args:
        job: what is submitted.
        execution: how it is computed.
        output: the zip to write, with the name that the server expects.

    Returns:
        the number of detections

    Raises:
        SubmissionError: before any detection, the split does not fit the run's data; after it, the detections
            do not fit the split.
        RuntimeError: as `load_trained`.
    """
    manifest = read_manifest(job.manifest)
    root = Path(manifest["root"])
    info = read_image_info(root / job.test.annotations, root / job.test.images)
    _fits(info, manifest["categories"], root / job.test.images)
    trained = load_trained(job, execution, job.test)
    detections, _ = detect(
        trained.model,
        trained.dataset,
        device=trained.device,
        label=f"test images {job.run}",
        batch_size=job.batch_size,
        workers=execution.workers,
    )
    return write(output, detections, info)


def _fits(info: ImageInfo, categories: list[dict], folder: Path) -> None:
    """Make sure that a model of these categories fits the images, and that these exist.

    Raises:
        SubmissionError: it does not fit, or they do not exist.
    """
    names, trained = ({category["name"] for category in those} for those in (info.categories, categories))
    if names != trained:
        raise SubmissionError(
            f"{info.path}: categories: not those that the run was trained on "
            f"({json.dumps(sorted(names ^ trained))[:200]}); use the test images of the same dataset"
        )
    missing = [name for name in info.files if not (folder / name).is_file()]
    if missing:
        raise SubmissionError(
            f"{info.path}: images: {len(missing)} of {len(info.files)} files are not in {folder}, first "
            f"{missing[0]}; copy them there"
        )
