"""The statements of a file of weights that are used: names of classes, and the run that it belongs to.

The model is built from the declarations of this suite, never from a file. A file made by this suite has the
settings of its training. They select among the declared settings, and must be equal to them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from mmdet.datasets import CocoDataset
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from torch import Tensor

from tood.runtime.weight_file import WeightFileError, read_weights
from tood.study.declarations import ExperimentError, load_runs, select_runs, unknown_run
from tood.study.plan import Plan
from tood.study.released import load_released
from tood.study.scales import load_scale, scale_names
from tood.study.settings import Settings

MOST_CLASSES = 20_000


def _printable(name: str) -> str:
    if not name.isprintable():
        raise ValueError("holds what cannot be printed, such as a line break")
    return name


_Name = Annotated[str, Field(max_length=1000), AfterValidator(_printable)]
_Names = Annotated[tuple[_Name, ...], Field(min_length=1, max_length=MOST_CLASSES)]


class ImportFailed(RuntimeError):
    """A file that cannot be the model of a run; the message names it, says why, and gives a hint."""


class _Said(BaseModel):
    """Part of the statements of a file; other statements are ignored."""

    model_config = ConfigDict(strict=True, frozen=True)


class _Run(_Said):
    id: Annotated[str, Field(pattern=r"^[a-z0-9_]{1,80}$")]
    options: dict[str, Any] = {}


_Side = Annotated[int, Field(ge=1, le=2**16)]


class _Input(_Said):
    size: list[_Side] | tuple[_Side, ...] | None = None


class SavedSettings(_Said):
    """The part of `tood.study.plan.Plan.settings` of a training that decides a model."""

    run: _Run
    model: dict[str, Any]
    heads: dict[str, Any]
    input: _Input
    released: str | None = None


@dataclass(frozen=True)
class Weights:
    """The content of a file that is used."""

    state_dict: dict[str, Tensor]
    classes: tuple[str, ...]
    settings: Any  # not checked; None if there are none
    named: bool = True  # whether the file itself names the classes


def read(path: Path) -> Weights:
    """The tensors of a file, and its classes: COCO's if the file names none.

    Raises:
        ImportFailed: it is no file of weights, or its statements cannot be true.
    """
    try:
        content = read_weights(path)
    except WeightFileError as error:
        raise ImportFailed(str(error)) from error
    meta = _checked(dict, {} if content.meta is None else content.meta, "meta", path)
    described = _checked(dict, meta.get("dataset_meta") or {}, "meta.dataset_meta", path)
    # This suite's, mmdet 2's, mmdet 3's
    for name, holder in (
        ("classes", meta),
        ("CLASSES", meta),
        ("classes", described),
        ("CLASSES", described),
    ):
        if holder.get(name) is not None:
            where = f"meta.{name}" if holder is meta else f"meta.dataset_meta.{name}"
            if isinstance(holder[name], str):
                raise ImportFailed(
                    f"{path}: {where} is the text {holder[name]!r} and no list of names; a tuple of one name "
                    f"has a comma: ({holder[name]!r},)"
                )
            names = _checked(_Names, holder[name], where, path)
            return Weights(content.state_dict, names, meta.get("settings"))
    coco = tuple(CocoDataset.METAINFO["classes"])
    return Weights(content.state_dict, coco, meta.get("settings"), named=False)


def declared_settings(said: Any, path: Path) -> Settings:
    """The declared settings that are equal to those of a file.

    Args:
        said: the file's.
        path: of the file, for messages.

    Raises:
        ImportFailed: the file's are no settings.
        ExperimentError: no declared run, scale or released file has them.
    """
    saved, runs = _checked(SavedSettings, said, "meta.settings", path), load_runs()
    run = saved.run.id
    if run not in runs:
        raise ExperimentError(f"{path}: meta.settings.run.id: {unknown_run(run, runs)}")
    select_runs([run], runs)
    for settings in _candidates(saved):
        if (
            _same(settings["model"], saved.model)
            and _same(settings["heads"], saved.heads)
            and _same(settings["input"].get("size"), saved.input.size)
            and _same(settings["run"]["options"], saved.run.options)
        ):
            return settings
    raise ExperimentError(
        f"{path}: meta.settings: they belong to {run}, but to none of the scales declared here "
        f"({', '.join(scale_names())}); use its study (--run {run} --name STUDY), or add its scale to "
        f"experiments/scales; if it has the paper's size, give --config {run}"
    )


def _candidates(saved: SavedSettings) -> Iterator[Settings]:
    """The settings of a run at each scale, for a scale's own images and for those of the file's size."""
    run, size = saved.run.id, saved.input.size
    released = load_released().get(saved.released or "")
    for name in scale_names():
        options: dict[str, Any] = {"scale": name, "runs": run}
        settings = Plan(options).settings(run)
        if released and released.run == run:
            settings["run"]["options"] |= released.options
        yield settings
        if size and load_scale(name).drawing:
            own = {"name": "own", "data_root": ".", "image_size": list(size)}
            try:
                yield Plan(options | own).settings(run)
            except ExperimentError:
                continue  # not a possible size of images


def _same(declared: Any, said: Any) -> bool:
    """Whether a value is the declared one; how weights are initialised does not count."""
    if isinstance(declared, Mapping):
        if not isinstance(said, dict):
            return False
        keys = declared.keys() - {"init_cfg"}
        return keys == said.keys() - {"init_cfg"} and all(_same(declared[key], said[key]) for key in keys)
    if isinstance(declared, list | tuple):
        if not isinstance(said, list | tuple) or len(declared) != len(said):
            return False
        return all(_same(*pair) for pair in zip(declared, said, strict=True))
    return type(said) in (type(None), bool, int, float, str) and declared == said


def _checked(kind: Any, value: Any, where: str, path: Path) -> Any:
    """A part of the statements of a file, with its type checked.

    Raises:
        ImportFailed: it has another type; the message is one line.
    """
    try:
        return TypeAdapter(kind).validate_python(value)
    except (ValidationError, RecursionError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": "is endless"}
        place = ".".join([where, *(str(step)[:40] for step in first["loc"])])
        raise ImportFailed(
            f"{path}: {place}: {first['msg']}; the file is damaged or not what it seems; fetch it again"
        ) from None
