"""Reads weights that others released, renames them, compares them with a run's model, and writes them."""

import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from mmdet.models.detectors import SingleStageDetector
from mmengine.config import Config
from torch import Tensor, nn

from tood.data.manifest import read_manifest
from tood.data.seen import file_digest
from tood.engine.config import build_model, resolve
from tood.engine.weights import weights_of
from tood.evaluation.released import ours
from tood.evaluation.weight_meta import ImportFailed, read
from tood.ledger.forms import Options
from tood.ledger.plans import save_study
from tood.ledger.provenance import describe_import
from tood.ledger.status import call_of
from tood.ledger.study_jobs import import_job
from tood.runtime.download import checksums
from tood.runtime.failures import State
from tood.runtime.files import atomic_path, read_json, write_json
from tood.runtime.locks import claim
from tood.runtime.quiet import quiet
from tood.runtime.text import single_line
from tood.study.declarations import ExperimentError, Run, load_runs, select_runs, unknown_run
from tood.study.jobs import ImportJob
from tood.study.paths import RunPaths, StudyPaths
from tood.study.plan import Plan
from tood.study.released import RELEASED, ReleasedFile, by_hand, load_released
from tood.study.settings import Settings

_NAMED = 3  # number of tensors of each kind that a message names


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
                paths.state, {"state": State.FAILED, "reason": str(error), "updated": time.time(), **state}
            )
            raise
        with atomic_path(output) as temporary:
            torch.save(content, temporary)
        write_json(paths.provenance, provenance)
        sha256 = provenance["released"]["sha256"]
        write_json(paths.state, {"state": State.RELEASED, "updated": time.time(), "sha256": sha256, **state})


def _imported(job: ImportJob, released: ReleasedFile) -> tuple[dict, dict]:
    """The content of the run's file of weights, and its provenance."""
    sha256 = checked(job.file, released.digest)
    weights = read(job.file)
    classes, manifest = weights.classes, read_manifest(job.manifest)
    names = [category["name"] for category in manifest["categories"]]
    if names != list(classes):
        raise ImportFailed(
            f"{job.file}: knows {len(classes)} classes, {classes[0]} .. {classes[-1]}, and the dataset at "
            f"{manifest['root']} has {len(names)}, {names[0]} .. {names[-1]}; released weights need a "
            "dataset with their classes, in their order"
        )
    model, config = built(job.settings, manifest["categories"], weights.state_dict, job.file)
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


def checked(path: Path, digest: str = "") -> str:
    """The sha256 of a file, in hexadecimal.

    Args:
        path: the file.
        digest: start of the sha256 that it is declared with; empty if with none.

    Raises:
        ImportFailed: the file does not exist, or has another sha256.
    """
    if not path.is_file():
        raise ImportFailed(f"{path}: no such file")
    _, sha256 = checksums(path)
    if not sha256.startswith(digest):
        raise ImportFailed(
            f"{path}: its sha256 begins with {sha256[:8]}, its name says {digest}: the file is damaged or "
            "another one; fetch it again"
        )
    return sha256


def built(
    settings: Settings, categories: list[dict], state_dict: Mapping[str, Tensor], path: Path
) -> tuple[SingleStageDetector, Config]:
    """The model of a run with the weights of a file, and its configuration.

    Memory is allocated only after the comparison shows that the weights fit.

    Args:
        settings: as for `resolve`.
        categories: of the weights.
        state_dict: as for `fitted`.
        path: file of the weights, for messages.

    Raises:
        ImportFailed: the weights do not fit, or no model can be built from the settings.
    """
    quiet()
    run = settings["run"]["id"]
    try:
        config = resolve(settings, categories, None)
        with torch.device("meta"):
            shapes = build_model(config)
    except ExperimentError as error:
        raise ImportFailed(f"{path}: {error}") from error
    except Exception as error:  # a key or a number that a part of the model does not accept
        detail = single_line(str(error))[:200]
        raise ImportFailed(
            f"{path}: its declared options make no model of {run}: {detail}; correct them"
        ) from error
    weights = fitted(state_dict, shapes, path, run)
    model = build_model(config)
    model.load_state_dict(weights)
    return model, config


def fitted(state_dict: Mapping[str, Tensor], model: nn.Module, path: Path, run: str) -> dict[str, Tensor]:
    """A state dict renamed for a model, after all its tensors were compared.

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
        renamed = ours(state_dict, expected)
    except ValueError as error:
        raise ImportFailed(f"{path}: is not of {run}: {error}") from error
    # Counters of training steps: older files lack them, `.half()` converts them, no output depends on them
    renamed |= {
        name: torch.zeros_like(tensor, device="cpu")
        for name, tensor in expected.items()
        if name.endswith("num_batches_tracked")
        and (name not in renamed or _kind(renamed[name]) != _kind(tensor))
    }
    both = [name for name in expected if name in renamed]
    alike = [name for name in both if renamed[name].shape == expected[name].shape]
    shapes = [
        f"{name} {tuple(renamed[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in both
        if renamed[name].shape != expected[name].shape
    ]
    kinds = [
        f"{name} {renamed[name].dtype} instead of {expected[name].dtype}"
        for name in alike
        if _kind(renamed[name]) != _kind(expected[name])
    ]
    infinite = [name for name in alike if not torch.isfinite(renamed[name].to(expected[name].dtype)).all()]
    problems = [
        _some("lacks", [name for name in expected if name not in renamed]),
        _some("has in addition", [name for name in renamed if name not in expected]),
        _some("has in another shape", shapes),
        _some("has in another type of number", kinds),
        _some("has values that are not finite in", infinite),
    ]
    if said := "; it ".join(problem for problem in problems if problem):
        raise ImportFailed(
            f"{path}: does not fit {run}: of {len(expected)} tensors it {said}. It belongs to another "
            "model; experiments/released.yaml names files that fit"
        )
    return renamed


def _kind(tensor: Tensor) -> tuple[bool, bool]:
    """Whether its numbers are floating-point, and complex; half and double precision count as the same."""
    return tensor.is_floating_point(), tensor.is_complex()


def _some(verb: str, names: Sequence[str]) -> str:
    """The first of some names and how many more there are; empty if there are none."""
    rest = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{verb} {len(names)}: {', '.join(names[:_NAMED])}{rest}" if names else ""


def import_file(file: Path, run: str, options: Mapping[str, Any], near: bool = False) -> str:
    """Use one file of weights as the model of a run; the work of `tood import`.

    A copy goes to the folder of released weights, where the workflow finds it: under its own name if it is
    declared, else as `RUN.pth`.

    Args:
        file: anywhere.
        run: id.
        options: of the study, as for the workflow; the study has released weights, at the scale `paper`.
        near: whether a file of another recipe is accepted too.

    Returns:
        what was done, and the call that evaluates it

    Raises:
        ExperimentError: the file is for another run, or is near without `near`, or does not fit; then it is
            not copied.
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
                f"{file}: is a near file, of another recipe than {run}: {declared.near} --near accepts it"
            )
        options["near"] = _with(options.get("near"), file.name)
    released = declared or by_hand(run)
    try:
        _try(file, runs[run], released, str(options["scale"]))
        place = _in_place(file, released)
        plan = Plan(options)
        if plan.released(run) != released:
            first = cast(ReleasedFile, plan.released(run)).path
            raise ExperimentError(f"{place} is there, but {first} is used before it; move {first} away")
        save_study(plan)
        seed = plan.seeds[0]
        job, paths = import_job(plan, run, seed), StudyPaths(plan.name).run(run, seed)
        if not job.manifest.is_file():  # the data decide whether a result is stale
            return f"{place}: fits {run}; this imports it, when it has checked the dataset:\n{call_of(plan)}"
        run_import(job, released, paths.folder, paths.model)
    except ImportFailed as error:
        raise ExperimentError(str(error)) from error
    return f"{paths.model}: the weights of {place}; this evaluates them:\n{call_of(plan)}"


def _try(file: Path, run: Run, released: ReleasedFile, scale: str) -> None:
    """Make sure that a file fits a run, before it is copied."""
    checked(file, released.digest)
    weights = read(file)
    settings = Plan({"scale": scale, "runs": run.id}).settings(run.id)
    settings["run"]["options"] = run.options | released.options
    built(settings, [{"name": name} for name in weights.classes], weights.state_dict, file)


def _in_place(file: Path, released: ReleasedFile) -> Path:
    """Copy a file to the folder of released weights, unless it is already there; another one is kept."""
    place = released.path
    if not place.exists():
        with atomic_path(place) as temporary:
            shutil.copyfile(file, temporary)
    elif not place.samefile(file) and file_digest(place) != file_digest(file):
        raise ExperimentError(f"{place} is there and is another file than {file}; move one of them away")
    return place


def _with(names: str | Iterable[str] | None, name: str) -> list[str]:
    """The names in an option, with one more name."""
    given = names.split(",") if isinstance(names, str) else list(names or ())
    return [*given, *([] if name in given else [name])]
