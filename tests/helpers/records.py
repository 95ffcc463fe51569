"""What a finished training leaves, without training: the files of its run, and its record."""

from pathlib import Path

from helpers.losses import LOSSES, write_losses
from tood.ledger.provenance import data_digest, digest, evaluation_digest
from tood.ledger.records import write_record
from tood.ledger.study_jobs import deciding_code
from tood.runtime.files import write_json
from tood.study.paths import StudyPaths
from tood.study.plan import Plan

MANIFEST = {
    "root": "elsewhere",
    "categories": [],
    "splits": {
        name: {
            "annotation_file": f"{name}.json",
            "image_folder": name,
            "images": 1,
            "sha256": name,
            "image_digest": name,
        }
        for name in ("train", "val")
    },
}
AP_OF = {"atss_af": 40.0, "tood_af": 45.0, "fcos": 38.0}
OBJECTS = {
    "distance": [0.0, 0.05, 0.5, None],
    "classified": [0.5, 0.6, 0.7, None],
    "localised": [0.5, 0.9, 1.0, None],
}


def finish(plan: Plan, run: str, seed: int, state: str = "done", epochs: int = 12, **change) -> Path:
    """What a finished training and its measurements leave, and its record; returns the latter's path."""
    paths = StudyPaths(plan.name).run(run, seed)
    root = plan.data_root
    manifest = StudyPaths(plan.name).manifest
    write_json(manifest, MANIFEST | {"root": str(root)})
    if plan.drawing:
        write_json(root / "drawing.json", plan.drawing.model_dump(mode="json"))
    digests = {
        "code": deciding_code(plan, run),
        "settings": digest(plan.settings(run)),
        "data": data_digest(MANIFEST),
    } | change
    write_json(
        paths.state,
        {"state": state, "host": "here", "pid": 7, "seconds": 2.5, "reason": None, "epochs": epochs},
    )
    data = {"root": str(root), **MANIFEST["splits"]}
    made = {"run": run, "seed": seed, "digests": digests, "host": "here", "config": {"a": 1}, "data": data}
    made["settings"] = plan.settings(run)
    write_json(
        paths.provenance,
        made | {"seconds": 2.5, "hardware": {"device": "cpu", "cpu": "a CPU", "gpus": 0, "gpu_names": []}},
    )
    write_losses(paths.losses, *LOSSES)
    if state == "done":
        paths.model.touch()
        for name, metrics in (
            ("ap.json", {"AP": AP_OF[run] + seed, "AP75": AP_OF[run] - 1, "APL": float("nan")}),
            ("alignment.json", {"PCC (top-50)": 0.5, "IoU (top-10)": 0.6}),
        ):
            evaluation = {"evaluation": evaluation_digest(name, plan.study.val_images)}
            write_json(paths.folder / name, metrics | {"digests": digests | evaluation})
        write_json(paths.alignment_variants, {"before NMS": {"default": {"pcc": 0.5}}})
        write_json(paths.best_anchors, {"objects": OBJECTS, "density": []})
    record = StudyPaths(plan.name).record(run, seed)
    write_record(paths, manifest, record)
    return record
