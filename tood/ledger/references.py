"""Published values of the runs other than the paper's: `experiments/references.yaml`.

A value of one set of images says nothing of another set, so each has its set. Ours is measured on the
validation images, and a table prints the reference of these.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from tood.study.declarations import Declaration, ExperimentError, ImageSet, Run, load_declared, unknown_run
from tood.study.paths import EXPERIMENTS

REFERENCES = EXPERIMENTS / "references.yaml"

Metric = Literal["AP", "AP50", "AP75", "APS", "APM", "APL"]
Percent = Annotated[float, Field(ge=0, le=100)]


class Reference(Declaration):
    """What one source prints for one run on one set of images."""

    set: ImageSet
    source: str
    metrics: Annotated[dict[Metric, Percent], Field(min_length=1)]
    differs: str | None = None  # from the run of this suite, as far as known

    @property
    def described(self) -> str:
        """The source, and what is different there."""
        return self.source if self.differs is None else f"{self.source}; there: {self.differs}"


class _References(Declaration):
    references: dict[str, list[Reference]]


def load_references(runs: Mapping[str, Run], path: Path = REFERENCES) -> dict[str, list[Reference]]:
    """The published values by run id, those to be preferred first."""
    declared = load_declared(_References, path).references
    for name, entries in declared.items():
        if name not in runs:
            raise ExperimentError(f"{path}: references: {unknown_run(name, runs)}")
        places = [(entry.set, entry.source) for entry in entries]
        if twice := next((place for place in places if places.count(place) > 1), None):
            raise ExperimentError(
                f"{path}: references: {name}: two entries of {twice[1]!r} for {twice[0]}; put their metrics "
                "into one"
            )
    return declared


def reference_on(image_set: ImageSet, entries: Sequence[Reference]) -> Reference | None:
    """The first of the entries that is of this set of images; None if none is."""
    return next((entry for entry in entries if entry.set == image_set), None)
