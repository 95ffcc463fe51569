"""What the small files of a study hold: the types of their values, as `read_json` checks them.

They travel between machines, are edited by hand and are cut short by full disks. A reader names the file and
the key, instead of failing later and elsewhere. Keys that are not here are left alone.
"""

from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, Field, RootModel, model_validator

from tood.runtime.run_state import StateFile

Metrics = dict[str, float | None]  # by their names; None or NaN where a metric is not defined
_Count = Annotated[int, Field(ge=0)]


class Options(BaseModel):
    """Of `study.json`: any, which `tood.study.options` checks one by one."""


def _complete(digests: dict[str, str]) -> dict[str, str]:
    if lacking := {"code", "settings", "data"} - set(digests):
        raise ValueError(f"no digest of {', '.join(sorted(lacking))}")
    return digests


class SplitDigests(BaseModel):
    """What of a split decides a result."""

    sha256: str
    image_digest: str


class Data(BaseModel):
    """Of a provenance: the dataset, its splits by their names, and what the check of it noted."""

    __pydantic_extra__: dict[str, SplitDigests] = Field(init=False)
    model_config = {"extra": "allow"}
    root: str | None = None
    notes: list[str] = []


class Hardware(BaseModel):
    """What a training ran on."""

    device: str | None = None
    cpu: str | None = None
    gpus: _Count = 0
    gpu_names: list[str] = []


class Machine(Hardware):
    """What the training of a record ran on."""

    cpu: str


class OfRun(BaseModel):
    """Of the settings of a run, how long it trains."""

    epochs: int | None = None


class OfTraining(BaseModel):
    """Of the settings of a run, what the scale or the study chose of its optimisation."""

    lr: float | None = None


class Settings(BaseModel):
    """Of a run, as far as anything but a training reads them."""

    iterations: int | None = None
    run: OfRun | None = None
    train: OfTraining | None = None


class Timed(BaseModel):
    """Of `provenance.json`, what says how long a training took, and on what."""

    run: str | None = None
    seconds: float | None = None
    settings: Settings | None = None
    hardware: Hardware | None = None


class Provenance(Timed):
    """Of `provenance.json`. What lacks a digest is stale, and not damaged."""

    digests: dict[str, str] = {}
    seed: _Count | None = None
    data: Data | None = None
    released: dict[str, Any] | None = None
    started: float | None = None
    finished: float | None = None
    gpu_hours: float | None = None
    attempts: int | None = None


class Made(Provenance):
    """Of the provenance of which a record is written."""

    run: str
    seed: _Count
    digests: Annotated[dict[str, str], AfterValidator(_complete)]
    data: Data
    hardware: Machine | None = None  # weights that others released were trained on theirs

    @model_validator(mode="after")
    def _made_somewhere(self) -> Self:
        if self.hardware is None and self.released is None:
            raise ValueError("hardware: is not there")
        return self


class Measurement(BaseModel):
    """Of `ap.json` and `alignment.json`: metrics by their names, and the digests that they were made with."""

    __pydantic_extra__: Metrics = Field(init=False)
    model_config = {"extra": "allow"}
    digests: dict[str, str] = {}


class Readings(RootModel[dict[str, dict[str, Metrics]]]):
    """Of `alignment_variants.json`: metrics by group and reading."""


class Entry(BaseModel):
    """A line of `losses.jsonl`; the losses are beside these, under names that begin with `loss`."""

    __pydantic_extra__: Metrics = Field(init=False)
    model_config = {"extra": "allow"}
    epoch: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    objects: _Count
    positives: float | None
    positive_iou: float | None


class Files(BaseModel):
    """Of a record: what stands for the files of the run's folder."""

    state: Annotated[StateFile, Field(alias="state.json")]
    provenance: Annotated[Made, Field(alias="provenance.json")]
    ap: Annotated[Measurement | None, Field(alias="ap.json")] = None
    alignment: Annotated[Measurement | None, Field(alias="alignment.json")] = None
    readings: Annotated[Readings | None, Field(alias="alignment_variants.json")] = None


class Agreement(BaseModel):
    """Of a record: how well the best anchors agree."""

    objects: _Count
    without: _Count
    distance: float | None
    classified: float | None
    localised: float | None
    share: list[float]


class Content(BaseModel):
    """Of a record."""

    run: str
    seed: _Count
    drawn: str | None
    converted: str = ""
    weights: str = ""
    files: Files
    epochs: list[Entry]
    best_anchors: Agreement | None = None
    objects: dict[str, _Count] = {}
