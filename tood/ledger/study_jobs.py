"""The jobs of a study, each with the digests of the code that decides its result.

Read at every workflow start.
"""

import functools
from typing import cast

from tood.data.validation import Split
from tood.ledger.code_digest import import_code, training_code
from tood.ledger.provenance import evaluation_digest
from tood.study.jobs import AnalysisJob, ImportJob, MeasuringJob, SubmissionJob, TrainingJob
from tood.study.paths import ALIGNMENT, AP, BEST_ANCHORS, StudyPaths
from tood.study.plan import Plan
from tood.study.released import ReleasedFile


def training_job(plan: Plan, run_id: str, seed: int) -> TrainingJob:
    """What decides the training of a run."""
    return TrainingJob(
        settings=plan.settings(run_id),
        seed=seed,
        manifest=StudyPaths(plan.name).manifest,
        weights=plan.initial_weights(run_id),
        code=_code(plan, run_id),
    )


def import_job(plan: Plan, run_id: str, seed: int) -> ImportJob:
    """What decides the weights of a run that is not trained."""
    return ImportJob(
        settings=plan.settings(run_id),
        seed=seed,
        manifest=StudyPaths(plan.name).manifest,
        file=cast(ReleasedFile, plan.released(run_id)).path,
        code=_code(plan, run_id),
    )


def measuring_job(plan: Plan, run_id: str, seed: int) -> MeasuringJob:
    """What decides the AP of a trained run."""
    paths = StudyPaths(plan.name)
    return MeasuringJob(
        settings=plan.settings(run_id),
        model=paths.run(run_id, seed).model,
        manifest=paths.manifest,
        images=plan.study.val_images,
        batch_size=plan.scale.test_batch_size,
        evaluation=_measured_by(plan, AP),
    )


def analysis_job(plan: Plan, run_id: str, seed: int) -> AnalysisJob:
    """What decides the AP of a trained run, its columns of Table 6, and its objects' best anchors."""
    return AnalysisJob(
        **measuring_job(plan, run_id, seed).model_dump(),
        analysis=_measured_by(plan, ALIGNMENT),
        best_anchors=_measured_by(plan, BEST_ANCHORS),
    )


def figure_job(plan: Plan, run_id: str, seed: int) -> MeasuringJob:
    """What decides a figure of a trained run; it carries no digest."""
    return measuring_job(plan, run_id, seed).model_copy(update={"batch_size": 1, "evaluation": ""})


def submission_job(plan: Plan, run_id: str, seed: int) -> SubmissionJob:
    """What decides the submission of a run; all test images are in it, whatever `val_images` says."""
    measuring = measuring_job(plan, run_id, seed)  # whose detections come about in the same way
    return SubmissionJob(**measuring.model_dump(exclude={"images"}), test=cast(Split, plan.scale.test))


def deciding_code(plan: Plan, run_id: str) -> str:
    """Digest of the code, as it is now, that decides the weights of a run."""
    digest_of = import_code if plan.imports else training_code
    return digest_of(plan.all_runs[run_id].config, plan.options(run_id))


# Snakemake asks for each job several times.
_code = functools.cache(deciding_code)


@functools.cache
def _measured_by(plan: Plan, result: str) -> str:
    return evaluation_digest(result, plan.study.val_images)
