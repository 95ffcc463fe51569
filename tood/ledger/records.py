"""Records: what a finished training leaves, in one file of a few kB that travels.

A record holds the measurements, their digests, how the training went and what it was made with. Of the
weights it has the checksum alone (`tood.ledger.kept_weights`). It stands for the training wherever its
digests are those of a training made now. So a study can be shown without training, done in several sittings,
and merged from several machines by copying files.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from tood.data.conversion import converted_from
from tood.data.manifest import read_manifest
from tood.data.seen import file_digest
from tood.data.synthetic import SPEC_FILE
from tood.ledger.code_digest import code_digest
from tood.ledger.curves import by_epoch
from tood.ledger.forms import Content, Made, Measurement, Readings
from tood.ledger.provenance import digest
from tood.runtime.failures import State
from tood.runtime.files import finite, misfit, read_json, write_json
from tood.runtime.run_state import StateFile
from tood.study.declarations import ExperimentError
from tood.study.paths import PACKAGE, RunPaths

VERSION = 1
# As pycocotools' `Params` has them, square pixels
SIZES = {"APS": (0, 32**2), "APM": (32**2, 96**2), "APL": (96**2, 1e5**2)}
DRAWN_BY = [PACKAGE / "data" / f"{name}.py" for name in ("painting", "shapes", "synthetic")]
# Of a state and of a provenance, what says something elsewhere too
_STATE = (
    *("state", "reason", "device", "attempt", "resumed_from", "iteration", "iterations", "epoch", "epochs"),
    *("images", "seconds", "images_per_second", "peak_memory_mb"),
)
_PROVENANCE = (
    *("run", "seed", "digests", "settings", "config_hash", "released", "git", "packages", "hardware"),
    *("started", "finished", "seconds", "gpu_hours", "peak_memory_mb", "attempts"),
)
_DISTANCES = [step / 10 for step in range(21)]  # in sizes of the object


@dataclass(frozen=True)
class Record:
    """One record, as it was written."""

    path: Path
    run: str  # id
    seed: int
    files: dict[str, dict]  # what stands for the files of the run's folder, by their names
    epochs: Sequence[Mapping[str, float | None]]  # as `tood.ledger.curves.by_epoch` gives them
    drawn: str | None  # digest of what the data were drawn by; None if they were not
    converted: str = ""  # digest of what the data were converted from; empty if they were not
    weights: str = ""  # SHA-256 of the file of the weights that were measured; empty where it is not known
    # Of the best anchors of all objects, see `_agreement`; empty where they were not measured
    best_anchors: Mapping[str, Any] = field(default_factory=dict)
    # How many objects APS, APM and APL rest on; empty where they were not counted
    objects: Mapping[str, int] = field(default_factory=dict)

    @property
    def provenance(self) -> dict:
        """What the training was made with."""
        return self.files["provenance.json"]


def write_record(files: RunPaths, manifest: Path, path: Path) -> None:
    """Write the record of a training that has ended, from the files of its run.

    Args:
        files: of the run; those that there are not, such as Table 6 of other runs, are left out.
        manifest: of its data.
        path: written.
    """
    state, provenance = read_json(files.state, StateFile), read_json(files.provenance, Made)
    data = {name: value for name, value in provenance["data"].items() if name != "root"}
    kept = {
        files.state.name: _only(state, _STATE),
        files.provenance.name: _only(provenance, _PROVENANCE) | {"data": data},
    }
    measured = state["state"] != State.DIVERGED  # else what is there is of other weights
    for file, form in (
        (files.ap, Measurement),
        (files.alignment, Measurement),
        (files.alignment_variants, Readings),
    ):
        if measured and file.is_file():
            kept[file.name] = read_json(file, form)
    checked = read_manifest(manifest)
    root = Path(checked["root"])
    spec = root / SPEC_FILE
    content: dict[str, Any] = {
        "version": VERSION,
        "run": provenance["run"],
        "seed": provenance["seed"],
        "drawn": drawn_by(read_json(spec)) if spec.is_file() else None,
        "files": kept,
        "epochs": by_epoch(files.losses),
    }
    if measured and files.model.is_file():
        content["weights"] = file_digest(files.model)
    if sources := converted_from(root):
        content["converted"] = sources
    if measured and files.best_anchors.is_file():
        content["best_anchors"] = _agreement(read_json(files.best_anchors)["objects"])
    if measured and files.evaluated_images.is_file():
        annotations = root / checked["splits"]["val"]["annotation_file"]
        content["objects"] = objects_by_size(read_json(annotations), read_json(files.evaluated_images))
    content = finite(content)  # as it will be read, which the checksum is of
    write_json(path, content | {"checksum": _checksum(content)})


def read_record(path: Path) -> Record | None:
    """The record of that name; None if there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        checksum = content.pop("checksum")
        named = (path.parent.name, path.stem)
        problem = (
            "its content does not fit its checksum: it was edited or damaged"
            if checksum != _checksum(content)
            else f"it is of another version, {content['version']}, than this suite's {VERSION}"
            if content["version"] != VERSION
            else f"it is of {content['run']}, seed {content['seed']}, and lies in another's place"
            if named != (content["run"], f"seed{content['seed']}")
            else misfit(content, Content)
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        problem = f"it is no record ({type(error).__name__}: {error})"
    if problem:
        raise ExperimentError(
            f"{path}: {problem}; restore it (`git checkout -- {path}`), or delete it to have the run trained"
        )
    known = {entry.name for entry in fields(Record)} & content.keys()
    return Record(path, **{name: content[name] for name in known})


def objects_by_size(truth: Mapping[str, Any], images: Iterable[int]) -> dict[str, int]:
    """How many objects APS, APM and APL rest on: COCO's ranges of the area, bounds in both, and no crowd.

    Args:
        truth: content of a COCO instances file; areas in square pixels.
        images: ids of the evaluated images.
    """
    evaluated = set(images)
    areas = [
        entry["area"]
        for entry in truth["annotations"]
        if entry["image_id"] in evaluated and not entry.get("iscrowd")
    ]
    return {name: sum(low <= area <= high for area in areas) for name, (low, high) in SIZES.items()}


def drawn_by(spec: Mapping[str, Any]) -> str:
    """Digest of what data are drawn by: their specification and the code."""
    return digest({"spec": dict(spec), "code": code_digest(DRAWN_BY)})


def same_annotations(record: Record, root: Path, splits: Mapping[str, Any], needed: bool) -> bool:
    """Whether annotation files are those of a record's data.

    Args:
        record: of data that were not drawn.
        root: folder of the dataset.
        splits: by name, each with the path of its `annotations`.
        needed: whether they have to be there; else nothing speaks against the record without them.
    """
    known = record.provenance["data"]
    files = {name: root / split.annotations for name, split in splits.items() if name in known}
    return all(
        file_digest(path) == known[name]["sha256"] if path.is_file() else not needed
        for name, path in files.items()
    )


def _only(content: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    return {key: content[key] for key in keys if content.get(key) is not None}


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _agreement(objects: Mapping[str, Sequence[float | None]]) -> dict[str, Any]:
    """How well the best-classified and the best-localised anchor of an object agree, over all objects.

    Args:
        objects: columns with an entry per object: `distance`, in sizes of the object, `classified` and
            `localised`, IoU of both anchors' boxes; None where no anchor belongs to it.

    Returns:
        objects; without (any anchor); means of distance, classified and localised (None without any); share,
        of all objects, whose distance is at most 0, 0.1, ... 2
    """
    known = [value for value in objects["distance"] if value is not None]
    number = len(objects["distance"])
    return {
        "objects": number,
        "without": number - len(known),
        **{name: _mean(objects[name]) for name in ("distance", "classified", "localised")},
        "share": [sum(value <= limit for value in known) / number for limit in _DISTANCES] if number else [],
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
