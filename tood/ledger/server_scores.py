"""Scores of COCO's server on test-dev2017, from `experiments/server_scores.yaml`.

Nobody but the server has the annotations of these images. It prints what pycocotools prints, and its twelve
lines are read here from the text that it returns.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Self

import yaml
from pydantic import Field, model_validator

from tood.study.declarations import Declaration, ExperimentError, Run, load_declared, unknown_run
from tood.study.paths import EXPERIMENTS

SERVER_SCORES = EXPERIMENTS / "server_scores.yaml"
# pycocotools' twelve figures in its order.
NAMES = ("AP", "AP50", "AP75", "APS", "APM", "APL", "AR1", "AR10", "AR100", "ARS", "ARM", "ARL")
_WITHOUT_ANNOTATIONS = (
    "-1 is what pycocotools prints where there are no annotations, as in image_info files; that is no result"
)
# ` Average Precision  (AP) @[ IoU=0.50:0.95 | area=   all | maxDets=100 ] = 0.467`
_LINE = re.compile(r"Average (?:Precision|Recall) .*\] = (-?[\d.]+)")
_OVERALL = "overall performance"


class ServerScores(Declaration):
    """The server's answer to one submission."""

    run: str
    study: str  # whose weights made the detections
    seed: Annotated[int, Field(ge=0)]
    source: str  # which server, when, which file
    metrics: dict[str, float]  # the twelve of NAMES, in percent

    @model_validator(mode="after")
    def _twelve_in_percent(self) -> Self:
        if given := sorted(set(self.metrics) ^ set(NAMES)):
            raise ValueError(f"missing or unknown metrics {given}; there are exactly {', '.join(NAMES)}")
        if any(value < 0 for value in self.metrics.values()):
            raise ValueError(_WITHOUT_ANNOTATIONS)
        if wrong := [name for name, value in self.metrics.items() if not value <= 100]:
            raise ValueError(f"{wrong[0]} is {self.metrics[wrong[0]]}; write percent, at most 100")
        if all(value <= 1 for value in self.metrics.values()):
            raise ValueError("all twelve are at most 1; write percent, such as 46.7 for 0.467")
        return self


class _Scores(Declaration):
    scores: list[ServerScores]


def load_scores(study: str, runs: Mapping[str, Run], path: Path = SERVER_SCORES) -> dict[str, ServerScores]:
    """The server's scores of one study by run id.

    Args:
        study: name; other models than this study's say nothing of it.
        path: file that holds the scores of all studies.
    """
    scores: dict[str, ServerScores] = {}
    for entry in load_declared(_Scores, path).scores:
        if entry.run not in runs:
            raise ExperimentError(f"{path}: scores: {unknown_run(entry.run, runs)}")
        if entry.study != study:
            continue
        if entry.run in scores:
            raise ExperimentError(f"{path}: scores: {entry.run}: two entries of study {study!r}; keep one")
        scores[entry.run] = entry
    return scores


def parse_summary(text: str) -> dict[str, float]:
    """The twelve figures of a server's `stdout.txt`, or of pycocotools' `summarize`, in percent.

    The server prints twelve lines for each category and then for all. Those after the last
    "overall performance" count, or the only twelve lines that there are.
    """
    _, overall, after = text.rpartition(_OVERALL)
    values = _LINE.findall(after)[: len(NAMES)] if overall else _LINE.findall(text)
    if len(values) != len(NAMES):
        where = f"after {_OVERALL!r}" if overall else "and no 'overall performance'"
        raise ExperimentError(
            f"the text has {len(values)} lines of pycocotools' summary {where}, and needs the twelve for all "
            "categories; paste the server's stdout.txt whole"
        )
    figures = [round(100 * float(value), 1) for value in values]
    if min(figures) < 0:
        raise ExperimentError(f"the text: {_WITHOUT_ANNOTATIONS}")
    return dict(zip(NAMES, figures, strict=True))


def entry(text: str, run: str, study: str, seed: int, source: str, runs: Mapping[str, Run]) -> str:
    """The lines to add to `experiments/server_scores.yaml`, from the server's text."""
    if run not in runs:
        raise ExperimentError(unknown_run(run, runs))
    values = dict(run=run, study=study, seed=seed, source=source, metrics=parse_summary(text))
    scores = load_declared(ServerScores, Path("entry"), values)
    return yaml.safe_dump([scores.model_dump()], sort_keys=False, allow_unicode=True, width=1000).rstrip()
