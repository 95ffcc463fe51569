"""What the user passes to the workflow with `--config`.

Read at every workflow start, hence only pydantic.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from tood.data.validation import Split
from tood.runtime.text import did_you_mean
from tood.study.declarations import Declaration, ExperimentError
from tood.study.fitting import LARGEST, SMALLEST
from tood.study.jobs import Device, Logger, Positive, Precision, Resources, renamed
from tood.study.scales import Scale


class Study(Declaration):
    """What one call of the workflow does; every field but `scale` has the scale's or a plain default.

    Those marked * make the numbers incomparable with the scale's own, so they need a `name` of their own
    for the results folder.
    """

    scale: str = "smoke"
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_.-]*$")] | None = None
    data_root: Path | None = None
    train: Split | None = None  # ANNOTATIONS:IMAGES in the data's folder, and those of `val`
    val: Split | None = None
    image_size: tuple[int, int] | None = None  # * at most, pixels; of a scale that draws its own
    data_seed: Annotated[int, Field(ge=0)] | None = None  # * of a scale that draws its data
    runs: tuple[str, ...] | None = None  # default: all that are implemented
    seeds: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    device: Device | None = None
    gpus: Positive | None = None  # that train one run together
    micro_batch: Positive | None = None  # images in one forward pass of a process
    logger: Logger | None = None  # event files of each training, too
    weights: Literal["imagenet", "random", "released"] | None = None  # *
    iterations: Positive | None = None  # * stop each training after this many
    batch_size: Positive | None = None  # *
    lr: Annotated[float, Field(gt=0)] | None = None  # *
    schedule: Annotated[float, Field(gt=0)] | None = None  # * times the epochs and milestones of each run
    precision: Precision | None = None  # *
    val_images: Positive | None = None  # * evaluate on the first images only, this many
    near: tuple[str, ...] | None = None  # released files of another recipe that are taken all the same
    released: Path | None = None  # declares released files instead of experiments/released.yaml
    fresh: bool | None = None  # train also what has a record
    test2017: bool | None = None  # `snakemake download` fetches the images of COCO's test set too


# Those marked *
INCOMPARABLE = (
    *("image_size", "data_seed", "weights", "iterations", "batch_size", "lr", "schedule", "precision"),
    "val_images",
)
OF_TRAININGS = (
    *("iterations", "batch_size", "lr", "schedule", "precision", "gpus", "micro_batch"),
    "logger",
)
# What a call may change of the resources that a scale gives its trainings.
RESOURCES = set(Study.model_fields) & set(Resources.model_fields)


def parse_study(options: Mapping[str, Any]) -> Study:
    """The options of a call, checked one by one.

    Args:
        options: as `tood.study.plan.Plan` takes them.

    Raises:
        ExperimentError: an unknown option, or a value that does not fit.
    """
    values = dict(options)
    for key in ("train", "val"):
        if isinstance(values.get(key), str):
            parts = values[key].split(":")
            if len(parts) != 2 or not all(parts):
                raise ExperimentError(
                    f"--config {key}={values[key]}: write ANNOTATIONS:IMAGES, a file and a folder in "
                    "data_root, such as annotations/train.json:images"
                )
            values[key] = parts
    if isinstance(size := values.get("image_size"), str | int):
        sides = re.split(r"[,x\s]+", str(size).strip())
        values["image_size"] = sides * 2 if len(sides) == 1 else sides
    for key in ("runs", "seeds", "near"):
        if isinstance(values.get(key), str):
            values[key] = [part for part in re.split(r"[,\s]+", values[key]) if part]
        elif values.get(key) is not None and not isinstance(values[key], list | tuple):
            values[key] = [values[key]]
    if values.get("name") is not None:
        values["name"] = str(values["name"])
    unknown = [key for key in values if key not in Study.model_fields]
    if unknown:
        if message := renamed(unknown[0]):
            raise ExperimentError(f"--config {unknown[0]}={values[unknown[0]]}: {message}")
        raise ExperimentError(
            f"--config {unknown[0]}: unknown option; {did_you_mean(unknown[0], Study.model_fields)}"
            f"there are {', '.join(Study.model_fields)}"
        )
    try:
        return Study(**values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise ExperimentError(
            f"--config {key}={first['input']!r}: {first['msg']}; see docs/configuration.md"
        ) from error


def check_data(study: Study, scale: Scale) -> None:
    """That the data of a study are one thing, and its own.

    Raises:
        ExperimentError: they are not; the message names the options.
    """
    draws = scale.drawing is not None
    if (study.train or study.val) and not study.data_root:
        raise ExperimentError("--config train, val: name files of a dataset of yours; add data_root=PATH")
    if draws and study.data_root and study.name is None:
        raise ExperimentError(
            f"--config data_root: scale {scale.name!r} draws its own data, and numbers on yours are "
            "not those of the scale; give the study a name for its results: --config name=NAME"
        )
    if draws and study.data_root and study.data_seed is not None:
        raise ExperimentError("--config data_seed: nothing is drawn with data_root; omit one of them")
    if study.data_seed is not None and not draws:
        raise ExperimentError(f"--config data_seed: scale {scale.name!r} draws no data; omit it")
    if study.image_size and not (draws and study.data_root):
        raise ExperimentError(
            "--config image_size: fits the detectors of a scale that draws its own data to yours, so it "
            "needs scale=mini or smoke, and data_root=PATH"
        )
    if study.image_size and not SMALLEST <= min(study.image_size) <= max(study.image_size) <= LARGEST:
        raise ExperimentError(
            f"--config image_size={','.join(map(str, study.image_size))}: sides are between {SMALLEST} "
            f"and {LARGEST} pixels; choose one near the size of your images, smaller to be faster"
        )
