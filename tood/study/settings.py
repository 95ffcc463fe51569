"""What a study asks of one run: everything that decides the result of a training besides code, data and seed.

These are dictionaries, as they go into digests, records and files of weights as JSON. pydantic checks
them where they come in.
"""

from typing import (
    Any,
    NotRequired,  # pydantic reads those of typing from Python 3.12 on
)

from typing_extensions import TypedDict


class RunSettings(TypedDict):
    """The declared run, with its schedule at the study's scale."""

    id: str
    config: str  # file in experiments/configs
    options: dict[str, Any]  # deviations from it, by dotted keys
    epochs: int
    milestones: list[int]  # epochs after which the learning rate falls


class SplitSettings(TypedDict):
    """A part of the dataset, relative to its folder."""

    annotations: str
    images: str


class Settings(TypedDict):
    """The run, and what the scale and the user change of its configuration."""

    run: RunSettings
    model: dict[str, Any]  # changes of `model`
    heads: dict[str, dict[str, Any]]  # changes of `model.bbox_head`, by its class
    input: dict[str, Any]  # changes of `input`
    train: dict[str, Any]  # changes of `train`
    splits: dict[str, SplitSettings]
    weights: str  # what backbones start from: "imagenet", "random"; or "released"
    iterations: int | None  # after which every training stops; None: after its schedule
    released: NotRequired[str]  # name of the file whose weights are taken
    classes: NotRequired[list[str]]  # of the data's, that are used; absent: all
