"""The head of a study's page: what came out of it in a few sentences, and what it is made of."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from tood.data.shapes import CLASSES
from tood.ledger.status import Status
from tood.report.contrasts import CONFIDENCE
from tood.report.evidence import read_judged, summary
from tood.report.markup import number
from tood.report.methods import best
from tood.report.run_table import machine
from tood.report.shown import CLAIMS, METHODS
from tood.report.verdicts import Verdict, vocabulary
from tood.runtime.failures import State
from tood.study.pages import load_pages
from tood.study.plan import Plan

_LEVEL = 1 - CONFIDENCE
_WEIGHTS = {
    "random": "random, not ImageNet's",
    "imagenet": "backbone of ImageNet, the rest random",
    "released": "released by others; nothing was trained",
}


def sentences(plan: Plan, statuses: Sequence[Status], tables: Path) -> list[str]:
    """What came out, in a few sentences.

    Args:
        statuses: of the study.
        tables: folder of its tables.
    """
    judged = read_judged(path) if (path := tables / f"{CLAIMS}.csv").is_file() else None
    lines = [] if judged is None else [effect_of_the_method(judged)]
    if (path := tables / f"{METHODS}.csv").is_file() and plan.own_data:
        lines.append(best(pd.read_csv(path)))
    if judged is not None:
        lines += verdicts(judged, plan.scale.comparable)
    states = Counter(str(status.state) for status in statuses)
    if set(states) != {State.DONE}:
        lines.append(
            f"{states.total()} trainings: {', '.join(f'{n} {state}' for state, n in states.items())}."
        )
    if not (plan.scale.comparable or plan.own_data):
        lines.append(
            "The paper's numbers are of COCO and of full-sized models. Those of this study can be compared "
            "with one another, not with them."
        )
    return list(filter(None, lines))


def effect_of_the_method(judged: pd.DataFrame) -> str:
    """AP of the paper's method minus AP of the baseline, with its interval; empty where it is not known.

    Args:
        judged: `claims.csv`.
    """
    (baseline, first), *_, (method, last) = load_pages().detectors.items()
    rows = summary(judged)
    known = rows[(rows["contrast"] == f"{last} - {first}") & (rows["metric"] == "AP") & (rows["seeds"] > 0)]
    if known.empty:
        return ""
    row = known.iloc[0]
    mean, low, high = (number(row[name], "+.1f") for name in ("mean", "low", "high"))
    difference = f"{method} − {baseline}: {mean} AP"
    who = f"{method} is the paper's object detector, {baseline} its baseline."
    if math.isnan(row["low"]):
        return f"{difference}, with one seed and so without an interval. {who}"
    return (
        f"{difference} ({CONFIDENCE:.0%} interval {low} to {high}, {row['seeds']} seeds). {who} "
        f'Verdict on the claim {row["number"]}, "{row["claim"]}": {row["verdict"]}.{_elsewhere(judged, row)}'
    )


def _elsewhere(judged: pd.DataFrame, row: pd.Series) -> str:
    """The studies that point the other way, with their values."""
    other = {Verdict.SAME_DIRECTION: Verdict.OPPOSITE, Verdict.OPPOSITE: Verdict.SAME_DIRECTION}
    of_claim = judged[(judged["id"] == row["id"]) & (judged["check"] != "")]
    looks = of_claim[of_claim["direction"] == other.get(row["direction"])]
    return "".join(
        f" In another study, {look['check']}, the difference is {number(look['mean'], '+.1f')} AP "
        f"({number(look['low'], '+.1f')} to {number(look['high'], '+.1f')}, {look['seeds']} seeds)."
        for look in looks.to_dict("records")
    )


def verdicts(judged: pd.DataFrame, comparable: bool) -> list[str]:
    """How many claims came out how: those on trainings, then those on sizes of models.

    Args:
        judged: `claims.csv`.
        comparable: whether the study's numbers are, with the paper's.
    """
    rows = summary(judged)
    known = rows[rows["verdict"] != Verdict.PENDING]
    pending = len(rows) - len(known)
    if known.empty:
        return ["No claim of the paper has a verdict yet."] if pending else []
    trained, sizes = known[known["seeds"] > 0], known[known["seeds"] == 0]
    lines = []
    if len(trained):
        fewest, most = int(trained["seeds"].min()), int(trained["seeds"].max())
        seeds = f"{most} seed{'s' * (most > 1)}" if fewest == most else f"{fewest} to {most} seeds"
        significant = int((trained["holm_p"] < _LEVEL).sum())
        ours = int(trained["paper"].isna().sum())
        controls = f", {ours} of them with a control that the paper lacks" if 0 < ours < len(trained) else ""
        others = "Another claim has" if pending == 1 else f"{pending} other claims have"
        rest = f" {others} no verdict, as not all of the runs are trained." if pending else ""
        lines.append(
            f"{len(trained)} claim{'s' * (len(trained) > 1)} on trainings ({seeds}){controls}: "
            f"{_counted(trained, comparable)}. Significant after Holm's correction: {significant}.{rest}"
        )
    if len(sizes):
        lines.append(f"Claims on sizes of models, which need no training: {_counted(sizes, comparable)}.")
    return lines


def _counted(rows: pd.DataFrame, comparable: bool) -> str:
    counts = Counter(rows["verdict"])
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in vocabulary(comparable) if counts[verdict])


def setup(plan: Plan, statuses: Sequence[Status]) -> dict[str, str]:
    """What the study is made of: a fact by its name, without those that are not known."""
    made: list[Mapping[str, Any]] = [status.provenance for status in statuses if status.provenance]
    epochs = {(each.get("settings") or {}).get("run", {}).get("epochs") for each in made} - {None}
    finished = [each["finished"] for each in made if each.get("finished")]
    last = datetime.fromtimestamp(max(finished), UTC).strftime("%Y-%m-%d") if finished else ""
    machines = sorted(filter(None, map(machine, statuses)))
    facts = {
        "Images": _images(plan, made),
        "Epochs": ", ".join(f"{number:g}" for number in sorted(epochs)),
        "Seeds": ", ".join(map(str, sorted({status.seed for status in statuses}))),
        "Initial weights": _WEIGHTS[plan.weights],
        "Trainings": "" if plan.imports else f"{len(statuses)}{f', the last on {last}' if last else ''}",
        "Hardware": ", ".join(dict.fromkeys(machines)),
    }
    return {name: fact for name, fact in facts.items() if fact}


def _images(plan: Plan, made: Sequence[Mapping[str, Any]]) -> str:
    """How many images the study has, and where they are from."""
    data: Mapping[str, Any] = next((each["data"] for each in made if each.get("data")), {})
    drawing = plan.drawing
    drawn = {"train": drawing.train_images, "val": drawing.val_images} if drawing else {}
    counts = {split: data.get(split, {}).get("images", drawn.get(split)) for split in ("train", "val")}
    words = {"train": "to train", "val": "to validate"}
    parts = [f"{count:,} {words[split]}" for split, count in counts.items() if count]
    if drawing:
        size = " × ".join(map(str, drawing.image_size))
        parts.append(f"generated, {size} pixels, {len(CLASSES)} classes")
    return ", ".join(parts)
