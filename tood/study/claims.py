"""The paper's claims, as `experiments/claims.yaml` declares them. Each start of the workflow reads them."""

from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, model_validator

from tood.study.declarations import (
    Declaration,
    ExperimentError,
    Run,
    Table,
    load_declared,
    repeated,
    select_runs,
    unknown_run,
)
from tood.study.paths import EXPERIMENTS

CLAIMS = EXPERIMENTS / "claims.yaml"


class Best(Declaration):
    """A run above each of others."""

    run: str
    of: Annotated[tuple[str, ...], Field(min_length=1)]


class Claim(Declaration):
    """A statement of the paper as a comparison: a contrast, the best of several runs, or runs alike."""

    id: Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]
    claim: str
    section: Annotated[str, BeforeValidator(str)]  # 4.1 is a number in YAML
    table: str  # whose printed values give the paper's effect
    metric: str
    contrast: dict[str, float] | None = None
    best: Best | None = None
    alike: Annotated[tuple[str, ...], Field(min_length=2)] | None = None
    within: Annotated[float, Field(gt=0)] | None = None  # margin of `alike`
    printed: float | None = None  # the paper's effect, where the table does not print the values
    why: str | None = None  # where `within` comes from, if not from the paper
    headline: bool = False  # README.md shows it
    whole: str | None = None  # id of the claim on all of its parts together, whose effect is said beside it
    percent_of: str | None = None  # run in percent of whose value the effect is shown, too
    number: int = 0  # its place in the file, from 1; filled in, so that it is the same in every study

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if sum(kind is not None for kind in (self.contrast, self.best, self.alike)) != 1:
            raise ValueError("write exactly one of contrast, best and alike")
        if (self.within is None) != (self.alike is None):
            raise ValueError("within belongs to alike, which needs it; give both or neither")
        return self

    @property
    def contrasts(self) -> list[dict[str, float]]:
        """Weights by run, of every contrast that the claim needs."""
        if self.contrast:
            return [self.contrast]
        if self.best:
            return [{self.best.run: 1, other: -1} for other in self.best.of]
        return [{run: 1, other: -1} for run, other in combinations(self.alike or (), 2)]

    @property
    def runs(self) -> list[str]:
        """Every run that the claim rests on."""
        return list(dict.fromkeys(run for weights in self.contrasts for run in weights))


class Check(Declaration):
    """Another study in which the claims of a study are looked at again."""

    name: Annotated[str, Field(min_length=1)]
    study: str  # below `results/`
    runs: Annotated[tuple[str, ...], Field(min_length=1)]  # that it trains, or tables for all of theirs
    what: str = ""  # is different there, in words


class Beside(Declaration):
    """A difference in AP that helps to read the claims and has no verdict."""

    what: Annotated[str, Field(min_length=1)]
    contrast: Annotated[dict[str, float], Field(min_length=2)]  # weights by run


class _Claims(Declaration):
    claims: list[Claim]
    checks: dict[str, list[Check]] = {}
    beside: list[Beside] = []


def load_checks(study: str, runs: Mapping[str, Run], path: Path = CLAIMS) -> list[Check]:
    """The checks of a study, with tables replaced by their runs."""
    checks = load_declared(_Claims, path).checks.get(study, [])
    if twice := repeated(check.name for check in checks):
        raise ExperimentError(f"{path}: checks: {study}: {twice!r} is declared twice; rename one")
    try:
        return [
            check.model_copy(update={"runs": tuple(run.id for run in select_runs(check.runs, runs))})
            for check in checks
        ]
    except ExperimentError as error:
        raise ExperimentError(f"{path}: checks: {study}: {error}") from None


def load_beside(runs: Mapping[str, Run], path: Path = CLAIMS) -> list[Beside]:
    """The differences without a verdict, checked against the runs."""
    beside = load_declared(_Claims, path).beside
    for each in beside:
        if unknown := next((run for run in each.contrast if run not in runs), None):
            raise ExperimentError(f"{path}: beside: {each.what}: {unknown_run(unknown, runs)}")
    return beside


def load_claims(runs: Mapping[str, Run], tables: Mapping[str, Table], path: Path = CLAIMS) -> list[Claim]:
    """The claims, checked against runs and tables."""
    claims = load_declared(_Claims, path).claims
    if twice := repeated(claim.id for claim in claims):
        raise ExperimentError(f"{path}: claims: {twice}: is declared twice; remove or rename one")
    metrics = {claim.id: claim.metric for claim in claims}
    for claim in claims:
        place = f"{path}: claims: {claim.id}:"
        if claim.number:
            raise ExperimentError(f"{place} number: follows from the place in the file; remove it")
        if claim.whole and metrics.get(claim.whole) != claim.metric:
            raise ExperimentError(f"{place} whole: {claim.whole!r} is no claim on {claim.metric}")
        if claim.percent_of and claim.percent_of not in claim.runs:
            raise ExperimentError(f"{place} percent_of: {claim.percent_of!r} is no run of the claim")
        if claim.table not in tables:
            raise ExperimentError(f"{place} table: {claim.table!r} is none of {', '.join(tables)}")
        table = tables[claim.table]
        if claim.metric not in table.metrics:
            raise ExperimentError(
                f"{place} metric: {claim.metric!r} is no column of {claim.table}: {', '.join(table.metrics)}"
            )
        rows = {row.run for row in table.rows}
        for run in claim.runs:
            if run not in runs:
                raise ExperimentError(f"{place} {unknown_run(run, runs)}")
            if run not in rows:
                raise ExperimentError(f"{place} {run} is in no row of {claim.table}; name another table")
    return [claim.model_copy(update={"number": number}) for number, claim in enumerate(claims, 1)]
