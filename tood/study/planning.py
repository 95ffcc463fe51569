"""What `tood plan` assumes, as `experiments/planning.yaml` declares it."""

import csv
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from tood.study.declarations import Declaration, ExperimentError, Run, load_declared
from tood.study.paths import EXPERIMENTS, PADDING

PLANNING = EXPERIMENTS / "planning.yaml"

REFERENCE = "tood_af"  # a run whose images have the size that published throughput is of

Span = tuple[float, float]  # from, to


class _Throughput(Declaration):
    gpu: str
    images_per_second: Span
    source: str


class _Gpus(Declaration):
    assumed: str
    gigabytes_per_second: dict[str, float]
    least_share: Annotated[float, Field(gt=0, le=1)]
    source: str


class _Backbone(Declaration):
    time: Span
    parameters_m: float


class _Data(Declaration):
    train_images: int
    val_images: int
    gigabytes: dict[str, float]


class _ImageSizes(Declaration):
    counts: list[tuple[int, int, int]]  # width, height, number of images
    source: str


class Planning(Declaration):
    """Content of `experiments/planning.yaml`."""

    throughput: _Throughput
    gpus: _Gpus
    backbones: dict[str, _Backbone]
    time_source: str
    data: _Data
    image_sizes: _ImageSizes

    @model_validator(mode="after")
    def _usable(self) -> Self:
        spans = [self.throughput.images_per_second, *(backbone.time for backbone in self.backbones.values())]
        if wrong := next((span for span in spans if not 0 < span[0] <= span[1]), None):
            raise ValueError(f"{list(wrong)} is no range of positive numbers; write the smaller one first")
        for gpu in (self.throughput.gpu, self.gpus.assumed):
            if gpu not in self.gpus.gigabytes_per_second:
                raise ValueError(f"gpus: gigabytes_per_second lacks {gpu}; add it")
        return self


def load_planning(runs: Mapping[str, Run], path: Path = PLANNING) -> Planning:
    """The assumptions, checked against the declarations."""
    planning = load_declared(Planning, path)
    if unknown := sorted({run.backbone for run in runs.values()} - set(planning.backbones)):
        raise ExperimentError(f"{path}: backbones: no entry for {unknown[0]}; add its time and parameters")
    return planning


@functools.cache
def relative_pixels() -> dict[str, float]:
    """Pixels of a training image by run, padding included, relative to those of `REFERENCE`."""
    try:
        with PADDING.open(newline="", encoding="utf-8") as file:
            pixels = {row["run"]: float(row["megapixels"]) for row in csv.DictReader(file)}
        return {run: own / pixels[REFERENCE] for run, own in pixels.items()}
    except (OSError, KeyError, ValueError, ZeroDivisionError) as error:
        raise ExperimentError(f"{PADDING}: cannot be read ({error}); `tood padding` writes it") from error
