"""Weights that were released by others, as the model of a run: read, renamed, compared with it, written."""

import logging
import re
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from mmdet.datasets import CocoDataset
from torch import Tensor, nn

from tood.data.manifest import read_manifest
from tood.engine.config import build_model, resolve
from tood.engine.trainer import weights_of
from tood.evaluation.released import ours
from tood.runtime.download import checksums, digest_in_name
from tood.runtime.files import atomic_path, read_json, write_json
from tood.runtime.locks import claim
from tood.study.declarations import ExperimentError, Run, load_runs, select_runs, unknown_run
from tood.study.forms import Options
from tood.study.jobs import ImportJob
from tood.study.paths import RunPaths, StudyPaths
from tood.study.plan import Plan
from tood.study.provenance import describe_import
from tood.study.released import RELEASED, ReleasedFile, by_hand, load_released
from tood.study.status import call_of, save_study

_NAMED = 3  # tensors of each kind that a message names
# Numbers of numpy, such as the best AP so far, which torch's reader does not know; numpy 1 had other names.
_NUMPY: list[Any] = [np.float64(0).__reduce__()[0], np.zeros(1).__reduce__()[0]]
_SAFE = [*_NUMPY, *((each, f"numpy.core.multiarray.{each.__name__}") for each in _NUMPY)]
_SAFE += [np.ndarray, np.dtype, *{type(np.dtype(kind)) for kind in "fdlq"}]


class ImportFailed(RuntimeError):
    """A file that cannot be the model of a run; the message names it, says why, and gives a hint."""


def run_import(job: ImportJob, released: ReleasedFile, folder: Path, output: Path) -> None:
    """Write released weights as the model of a run, with their provenance.

    Args:
        job: what is imported.
        released: what the file is.
        folder: of the run, for all files but the weights.
        output: the weights.

    Raises:
        ImportFailed: the file does not fit the run; `state.json` says so too.
    """
    paths = RunPaths(folder)
    state = {"run": job.run, "seed": job.seed, "file": released.file}
    with claim(folder):
        try:
            content, provenance = _imported(job, released)
        except ImportFailed as error:
            write_json(
                paths.state, {"state": "failed", "reason": str(error), "updated": time.time(), **state}
            )
            raise
        with atomic_path(output) as temporary:
            torch.save(content, temporary)
        write_json(paths.provenance, provenance)
        sha256 = provenance["released"]["sha256"]
        write_json(paths.state, {"state": "released", "updated": time.time(), "sha256": sha256, **state})


def _imported(job: ImportJob, released: ReleasedFile) -> tuple[dict, dict]:
    """The content of the run's file of weights, and its provenance."""
    sha256 = checked(job.file)
    state_dict, classes = read(job.file)
    manifest = read_manifest(job.manifest)
    names = [category["name"] for category in manifest["categories"]]
    if names != list(classes):
        raise ImportFailed(
            f"{job.file}: knows {len(classes)} classes, {classes[0]} .. {classes[-1]}, and the dataset at "
            f"{manifest['root']} has {len(names)}, {names[0]} .. {names[-1]}; released weights need a "
            "dataset with their classes, in their order"
        )
    logging.disable(logging.INFO)  # mmengine lists how each single parameter was initialised
    config = resolve(job.settings, manifest["categories"], None)
    model = build_model(config)
    model.load_state_dict(fitted(state_dict, model, job.file, job.run))
    what = {"bytes": job.file.stat().st_size, "sha256": sha256, "from": released.from_whom}
    facts = {**released.model_dump(exclude_none=True, exclude={"options"}), **what}
    meta = {"settings": job.settings, "seed": job.seed, "classes": config.classes, "released": facts}
    provenance = describe_import(
        settings=job.settings,
        seed=job.seed,
        config=config.to_dict(),
        manifest=manifest,
        code=job.code,
        released=facts,
    )
    return weights_of(model, meta), provenance


def checked(path: Path) -> str:
    """The sha256 of a file, in hexadecimal.

    Raises:
        ImportFailed: it is not there, or its name ends in the start of another one.
    """
    if not path.is_file():
        raise ImportFailed(f"{path}: no such file")
    (_, sha256), named = checksums(path), digest_in_name(path.name)
    if not sha256.startswith(named):
        raise ImportFailed(
            f"{path}: its sha256 begins with {sha256[:8]}, its name says {named}: the file is damaged or "
            "another one; fetch it again"
        )
    return sha256


def read(path: Path) -> tuple[dict[str, Tensor], Sequence[str]]:
    """The tensors of a file and the classes that they know; nothing in the file is executed.

    Reads torch's files, of the old container too, that hold a state dict, alone or under "state_dict". An
    optimiser beside it is passed over.

    Raises:
        ImportFailed: it is no such file.
    """
    try:
        with torch.serialization.safe_globals(_SAFE):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        if named := re.search(r"Unsupported \w+: (?:GLOBAL )?(\S+)", str(error)):
            raise ImportFailed(
                f"{path}: holds {named.group(1)} besides weights, which reading would execute; if you trust "
                "the file, strip it by mmdet's tools/model_converters/publish_model.py"
            ) from error
        detail = " ".join(str(error).split("\n")[0].split())
        raise ImportFailed(f"{path}: cannot be read as weights ({detail}); fetch it again") from error
    found: Any = content.get("state_dict", content) if isinstance(content, Mapping) else content
    if not (isinstance(found, Mapping) and found and all(isinstance(v, Tensor) for v in found.values())):
        keys = ", ".join(map(str, list(found)[:5])) if isinstance(found, Mapping) else type(found).__name__
        raise ImportFailed(f"{path}: holds no state dict of names and tensors, but {keys}; fetch it again")
    meta = content.get("meta")
    meta = meta if isinstance(meta, Mapping) else {}
    # mmdet 2 has it at the top, mmdet 3 in a mapping
    described = meta.get("dataset_meta") or {}
    classes = meta.get("CLASSES") or described.get("classes") or described.get("CLASSES")
    return dict(found), classes or CocoDataset.METAINFO["classes"]


def fitted(state_dict: Mapping[str, Tensor], model: nn.Module, path: Path, run: str) -> dict[str, Tensor]:
    """A state dict renamed for a model, after every one of its tensors was compared.

    Args:
        state_dict: names of mmdet, of the authors' release or ours, to tensors.
        model: of the run.
        path: file of the state dict, for messages.
        run: id, for messages.

    Raises:
        ImportFailed: tensors are missing, unknown, of another shape or not finite; the message names them.
    """
    expected = model.state_dict()
    try:
        found = ours(state_dict, expected)
    except ValueError as error:
        raise ImportFailed(f"{path}: is not of {run}: {error}") from error
    # Counters of training steps, which older files lack and no output depends on
    found |= {
        name: tensor
        for name, tensor in expected.items()
        if name.endswith("num_batches_tracked") and name not in found
    }
    both = [name for name in expected if name in found]
    shapes = [
        f"{name} {tuple(found[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in both
        if found[name].shape != expected[name].shape
    ]
    infinite = [name for name in both if not torch.isfinite(found[name]).all()]
    problems = [
        _some("lacks", [name for name in expected if name not in found]),
        _some("has besides", [name for name in found if name not in expected]),
        _some("has in another shape", shapes),
        _some("has values that are not finite in", infinite),
    ]
    if said := "; it ".join(problem for problem in problems if problem):
        raise ImportFailed(
            f"{path}: does not fit {run}: of {len(expected)} tensors it {said}. It is of another model; "
            "experiments/released.yaml names files that fit"
        )
    return found


def _some(verb: str, names: Sequence[str]) -> str:
    """The first of some names and how many more there are; empty if there are none."""
    rest = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{verb} {len(names)}: {', '.join(names[:_NAMED])}{rest}" if names else ""


def import_file(file: Path, run: str, options: Mapping[str, Any], near: bool = False) -> str:
    """Take one file of weights as the model of a run, as `tood import` does.

    A copy goes to the folder of released weights, where the workflow finds it: under its own name if it is
    declared, else as `RUN.pth`.

    Args:
        file: anywhere.
        run: id.
        options: of the study, as for the workflow; it has released weights, at the scale `paper`.
        near: whether a file of another recipe is taken too.

    Returns:
        what was done, and the call that evaluates it

    Raises:
        ExperimentError: the file is for another run, or near without being asked for, or does not fit; it was
            put nowhere then.
    """
    saved = StudyPaths(str(options.get("name") or "released")).options
    before = read_json(saved, Options) if saved.is_file() else {}
    options = {"scale": "paper", **before, **options, "weights": "released"}
    if options.get("runs"):
        options["runs"] = _with(options["runs"], run)
    declaration = Path(options.get("released") or RELEASED)
    runs = load_runs()
    if run not in runs:
        raise ExperimentError(f"--run {run}: {unknown_run(run, runs)}")
    select_runs([run], runs)
    declared = load_released(declaration).get(file.name)
    if declared and declared.run != run:
        raise ExperimentError(
            f"{file}: {declaration.name} declares it for {declared.run}, not for {run}; use "
            f"--run {declared.run}"
        )
    if declared and declared.near:
        if not near:
            raise ExperimentError(
                f"{file}: is near and not the recipe of {run}: {declared.near} --near takes it all the same"
            )
        options["near"] = _with(options.get("near"), file.name)
    released = declared or by_hand(run)
    try:
        _try(file, runs[run], released, str(options["scale"]))
        place = _in_place(file, released)
        plan = Plan(options)
        if plan.released(run) != released:
            first = cast(ReleasedFile, plan.released(run)).path
            raise ExperimentError(f"{place} is in place, and {first} goes before it; move that one away")
        save_study(plan)
        seed = plan.seeds[0]
        job, paths = plan.import_job(run, seed), StudyPaths(plan.name).run(run, seed)
        if not job.manifest.is_file():  # the data decides whether a result is stale
            return f"{place}: fits {run}; this imports it, when it has checked the dataset:\n{call_of(plan)}"
        run_import(job, released, paths.folder, paths.model)
    except ImportFailed as error:
        raise ExperimentError(str(error)) from error
    return f"{paths.model}: the weights of {place}; this evaluates them:\n{call_of(plan)}"


def _try(file: Path, run: Run, released: ReleasedFile, scale: str) -> None:
    """See that a file fits a run, before it is put anywhere."""
    checked(file)
    state_dict, classes = read(file)
    settings = Plan({"scale": scale, "runs": run.id}).settings(run.id)
    settings["run"]["options"] = run.options | released.options
    logging.disable(logging.INFO)  # mmengine lists how each single parameter was initialised
    model = build_model(resolve(settings, [{"name": name} for name in classes], None))
    fitted(state_dict, model, file, run.id)


def _in_place(file: Path, released: ReleasedFile) -> Path:
    """Copy a file to the folder of released weights, unless it is there."""
    place = released.path
    if not (place.exists() and place.samefile(file)):
        with atomic_path(place) as temporary:
            shutil.copyfile(file, temporary)
    return place


def _with(names: str | Iterable[str] | None, name: str) -> list[str]:
    """Names of an option, and one more."""
    given = names.split(",") if isinstance(names, str) else list(names or ())
    return [*given, *([] if name in given else [name])]
