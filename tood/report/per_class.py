"""Results of trainings by class, from the detections of their evaluation: tables, figures and captions."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from tood.analysis.figures.files import save_captioned
from tood.analysis.figures.per_class import (
    MISSED,
    MOST_PANELS,
    NO_OBJECT,
    draw_ap,
    draw_confusion,
    draw_curves,
    with_curves,
)
from tood.analysis.per_class import CURVES, PerClass, measure
from tood.data.manifest import read_manifest
from tood.evaluation.submission import KEYS, is_four_numbers
from tood.ledger.status import call_of, read_status
from tood.report.markup import DASH, markdown, markdown_table
from tood.runtime.failures import InputError
from tood.runtime.files import read_json, write_text
from tood.study.declarations import ExperimentError, unknown_run
from tood.study.paths import AP, StudyPaths
from tood.study.plan import Plan

METRICS = [*CURVES, "AR"]


class Detections(NamedTuple):
    """The detections of one training, or of a file."""

    run: str
    seed: int | None
    annotations: Path
    results: Path  # COCO results
    evaluated: Path | None  # ids of the images that count; None: all of the annotations
    stale: bool = False  # whether anything that decides them has changed since


class ByClass(NamedTuple):
    """The results of several trainings by class."""

    metrics: pd.DataFrame  # as `PerClass.metrics`, with run and seed
    curves: pd.DataFrame  # as `PerClass.curves`, with run and seed
    confusion: dict[tuple[str, int | None], np.ndarray]  # by run and seed
    least_score: float
    least_iou: float


def of_study(plan: Plan, runs: Sequence[str], seed: int | None) -> list[Detections]:
    """The detections of trainings of a study on this machine.

    Args:
        plan: of the study.
        runs: ids; empty: all that have detections here.
        seed: of the trainings; None: all seeds of the study.

    Raises:
        ExperimentError: there is no such run, or it has no detections here.
    """
    if unknown := [run for run in runs if run not in plan.all_runs]:
        raise ExperimentError(unknown_run(unknown[0], plan.all_runs))
    by_run = {
        run: list(filter(None, (_detections(plan, run, number) for number in _seeds(plan, run, seed))))
        for run in (runs or plan.all_runs)
    }
    of_seed = {} if seed is None else {"seeds": seed}
    for run in runs:
        if not by_run[run]:
            call = call_of(plan, runs=run, fresh=True, **of_seed)
            raise ExperimentError(
                f"{run}: no detections of {plan.name} are on this machine, and a record has none; "
                f"this trains it:\n{call}"
            )
    if not any(by_run.values()):
        which = "" if seed is None else f" of seed {seed}"
        raise ExperimentError(
            f"{plan.name}: no detections{which} are on this machine, and records have none; this trains its "
            f"runs:\n{call_of(plan, fresh=True, **of_seed)}"
        )
    return [detections for of_seeds in by_run.values() for detections in of_seeds]


def _seeds(plan: Plan, run: str, seed: int | None) -> Sequence[int]:
    return plan.seeds_of(run) if seed is None else [seed]


def _detections(plan: Plan, run: str, seed: int) -> Detections | None:
    study = StudyPaths(plan.name)
    paths = study.run(run, seed)
    if not (paths.detections.is_file() and paths.evaluated_images.is_file() and study.manifest.is_file()):
        return None
    manifest = read_manifest(study.manifest)
    annotations = Path(manifest["root"], manifest["splits"]["val"]["annotation_file"])
    result = read_status(plan, run, seed).results.get(AP)
    stale = result is None or bool(result.stale)
    return Detections(run, seed, annotations, paths.detections, paths.evaluated_images, stale)


def measure_all(sources: Sequence[Detections], least_score: float, least_iou: float) -> ByClass:
    """The results of detections by class.

    Args:
        sources: of one set of classes.
        least_score: as for `measure`.
        least_iou: as for `measure`.

    Raises:
        InputError: files do not fit each other, or cannot be read.
    """
    values, curves, confusions = [], [], {}
    for source in sources:
        measured = _measured(source, least_score, least_iou)
        made = {"run": source.run, "seed": source.seed}
        values.append(measured.metrics.assign(**made, stale=source.stale))
        curves.append(measured.curves.assign(**made))
        confusions[source.run, source.seed] = measured.confusion
    columns = ["run", "seed", "category_id", "class", "images", "objects", *METRICS, "stale"]
    together = pd.concat(values, ignore_index=True)[columns].astype({"seed": "Int64"})
    of_curves = pd.concat(curves, ignore_index=True).astype({"seed": "Int64"})
    of_curves = of_curves[["run", "seed", "category_id", "class", "metric", "recall", "precision"]]
    return ByClass(together, of_curves, confusions, least_score, least_iou)


def _measured(source: Detections, least_score: float, least_iou: float) -> PerClass:
    try:
        truth = read_json(source.annotations, hint="give the annotations that the detections are of")
        results = read_json(source.results, hint="give COCO results, a list of detections")
        _require_results(results, source.results)
        image_ids = (
            read_json(source.evaluated) if source.evaluated else [image["id"] for image in truth["images"]]
        )
        return measure(source.annotations, results, image_ids, least_score, least_iou)
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read: {error.strerror}") from error
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{source.annotations}, {source.results}: not in COCO's formats ({error!r})"
        ) from error
    except ValueError as error:
        raise InputError(f"{source.results}: does not fit {source.annotations}: {error}") from error


def _require_results(results: Any, path: Path) -> None:
    """That these are COCO results, of which pycocotools says little."""
    if not isinstance(results, list):
        raise InputError(f"{path}: not COCO results, which are a list of detections")
    for number, entry in enumerate(results):
        if lacking := [key for key in KEYS if not isinstance(entry, dict) or key not in entry]:
            raise InputError(f"{path}: entry {number}: lacks {', '.join(lacking)}; give COCO results")
        box = entry["bbox"]
        if not (is_four_numbers(box) and min(box[2:]) >= 0):
            raise InputError(f"{path}: entry {number}: bbox {box!r} is no x, y, width, height of a box")


def write_classes(results: ByClass, folder: Path) -> None:
    """Write tables as CSV and Markdown, and figures as PNG and PDF with their captions."""
    frames = {
        "classes": results.metrics,
        "precision_recall": results.curves,
        "confusion": confusion_frame(results),
    }
    for name, frame in frames.items():
        write_text(folder / f"{name}.csv", frame.to_csv(index=False, float_format="%.8g"))
    write_text(folder / "classes.md", to_markdown(results))
    seeds = _of_seeds(results.metrics)
    bars = " Bars are the range over seeds." if seeds else ""
    save_captioned(draw_ap(results.metrics), folder / "ap", f"AP of each class{seeds}.{bars}\n")
    shown, known = with_curves(results.metrics), results.metrics.dropna(subset="AP")["class"].nunique()
    half = MOST_PANELS // 2
    chosen = f" Drawn are the {half} classes of {known} with the highest AP and the {half} with the lowest."
    save_captioned(
        draw_curves(results.curves, shown, "AP50"),
        folder / "precision_recall",
        "Precision against recall of each class at an IoU of 0.5, interpolated as in COCO's AP50"
        f"{seeds}.{chosen if known > MOST_PANELS else ''}\n",
    )
    names = list(dict.fromkeys(results.metrics["class"]))
    for run in dict.fromkeys(results.metrics["run"]):
        counts = sum(matrix for (of_run, _), matrix in results.confusion.items() if of_run == run)
        save_captioned(
            draw_confusion(np.asarray(counts), names),
            folder / f"confusion_{run}",
            f"Classes of objects against classes of detections of {run}"
            f"{_of_seeds(results.metrics, run, 'summed')}. Detections with a score of at least "
            f"{results.least_score:g} count, each with the free object of the highest IoU, if that is at "
            f"least {results.least_iou:g}. Colour is the share of the row. The last row has detections "
            "without an object, the last column objects without a detection.\n",
        )


def confusion_frame(results: ByClass) -> pd.DataFrame:
    """The matrices in rows: run, seed, class of the object, class of the detection, count (above 0)."""
    names = list(dict.fromkeys(results.metrics["class"]))
    objects, detected = [*names, NO_OBJECT], [*names, MISSED]
    rows = [
        (run, seed, objects[row], detected[column], int(matrix[row, column]))
        for (run, seed), matrix in results.confusion.items()
        for row, column in zip(*matrix.nonzero(), strict=True)
    ]
    frame = pd.DataFrame(rows, columns=["run", "seed", "object", "detected_as", "count"])
    return frame.astype({"seed": "Int64"})


def to_markdown(results: ByClass) -> str:
    """AP of each class and run, the mean and sample standard deviation over seeds."""
    header, body = cells(results.metrics)
    caption = (
        f"**AP by class**, in percent{_of_seeds(results.metrics)}. The mean over classes is the run's AP."
    )
    stale = results.metrics["stale"].any()
    below = ["Some values are stale: code, settings or data have changed since."] if stale else []
    rows = [list(map(markdown, row)) for row in body]
    return markdown_table(caption, list(map(markdown, header)), rows, 1, below)


def cells(values: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """The table's header and rows: class, images, objects and AP of each run; last the means over classes."""
    runs = list(dict.fromkeys(values["run"]))
    first = values[(values["run"] == runs[0])].drop_duplicates("class")
    by_run = {run: values[values["run"] == run] for run in runs}
    body = [
        [row["class"], str(row["images"]), str(row["objects"])]
        + [_spread(by_run[run].loc[by_run[run]["class"] == row["class"], "AP"]) for run in runs]
        for row in first.to_dict("records")
    ]
    means = [_spread(frame.groupby("seed", dropna=False)["AP"].mean()) for frame in by_run.values()]
    return ["Class", "Images", "Objects", *runs], [*body, ["all", "", str(first["objects"].sum()), *means]]


def _spread(values: pd.Series) -> str:
    known = values.dropna()
    if not len(known):
        return DASH
    return f"{known.mean():.1f}" + (f" ± {known.std():.1f}" if len(known) > 1 else "")


def _of_seeds(values: pd.DataFrame, run: str | None = None, word: str = "mean") -> str:
    """How many seeds a figure shows, such as `, mean over 3 seeds`; empty for a single one."""
    counts = values.groupby("run")["seed"].nunique()
    several = sorted({int(counts[run])} if run else {int(count) for count in counts})
    if several[-1] < 2:
        return ""
    shown = str(several[0]) if len(several) == 1 else f"{several[0]} to {several[-1]}"
    return f", {word} over {shown} seeds"
