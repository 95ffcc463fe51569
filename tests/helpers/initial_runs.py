"""Runs of the scale smoke with initial weights, as if they were trained: quick to make, always the same."""

import json
from pathlib import Path

import torch
from mmengine.runner import set_random_seed

from helpers.manifests import write_manifest
from tood.analysis.table6 import measurement as one_pass
from tood.data.synthetic import CLASSES, DrawingSpec, generate
from tood.engine.config import build_model, resolve
from tood.engine.weights import weights_of
from tood.study.jobs import AnalysisJob, Execution, MeasuringJob
from tood.study.paths import RunPaths
from tood.study.plan import Plan

CATEGORIES = [{"id": number, "name": name} for number, name in enumerate(CLASSES, 1)]


def draw_dataset(folder: Path) -> Path:
    """The manifest of a drawn dataset with six validation images."""
    generate(folder / "data", DrawingSpec(seed=0, train_images=2, val_images=6, image_size=(64, 64)))
    return write_manifest(folder / "manifest.json", folder / "data", CATEGORIES)


def initial_run(manifest: Path, run: str, **options: object) -> MeasuringJob:
    """What measures a run whose weights are drawn with seed 0; its provenance lies beside them.

    Args:
        manifest: of `draw_dataset`.
        run: id.
        options: fields of the job.
    """
    settings = Plan({}).settings(run)
    config = resolve(settings, CATEGORIES, None)
    set_random_seed(0)
    model = build_model(config)
    model.init_weights()
    path = manifest.parent / run / "model.pth"
    path.parent.mkdir(exist_ok=True)
    torch.save(weights_of(model, {}), path)
    (path.parent / "provenance.json").write_text(json.dumps({"digests": {"code": run}}))
    return MeasuringJob(settings=settings, model=path, manifest=manifest, **options)


def analyse_run(job: MeasuringJob, folder: Path) -> RunPaths:
    """All that is measured on a run of Table 6, on the CPU; its files are in the folder."""
    one_pass.analyse(AnalysisJob(**job.model_dump()), Execution(device="cpu"), RunPaths(folder))
    return RunPaths(folder)
