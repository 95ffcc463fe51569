"""The measured part of docs/mini.md: written from the files under `results/`, never by hand."""

import re
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

from tood.study.declarations import load_tables
from tood.study.front_page import measured_tables, records_of
from tood.study.markup import markdown, markdown_table
from tood.study.records import Record

STUDY, OTHER_DATA, SWEEP = "mini", "mini_data1", "mini_lr*_x*"  # folders under `results/`
_NAME = re.compile(r"mini_lr(?P<lr>[\d.]+)_x[\d.]+")


def mini_part(results: Path) -> str:
    """The sweep of the recipe, every table of `mini`, the distances of best anchors, and the other images.

    Args:
        results: folder with one folder per study.
    """
    sets = [("On other images", OTHER_DATA)] if records_of(results, OTHER_DATA) else []
    parts = [
        "### The recipe\n",
        sweep(results),
        "### Tables\n",
        *measured_tables(results, STUDY),
        "### Best anchors\n",
        distances(results, STUDY),
    ]
    for title, study in sets:
        tables = measured_tables(results, study, ("table3", "table6"))
        parts += [f"### {title}\n", *tables, distances(results, study)]
    return "\n".join(parts)


def sweep(results: Path) -> str:
    """AP of each training of the sweep that chose the recipe."""
    found = []
    for folder in results.glob(SWEEP):
        if named := _NAME.fullmatch(folder.name):
            for one in records_of(results, folder.name):
                values = (_percent(one, "AP"), _percent(one, "AP75"))
                found.append((_epochs(one), float(named["lr"]), one.run, one.content["seed"], *values))
    body = [
        [run, str(seed), f"{lr:g}", str(epochs), *values] for epochs, lr, run, seed, *values in sorted(found)
    ]
    header = ["Run", "Seed", "Learning rate", "Epochs", "AP", "AP75"]
    return markdown_table("**Sweep of the recipe.**", header, body, 2, [])


def distances(results: Path, study: str) -> str:
    """Mean distance of each object's best anchors, of the runs of Table 6, over seeds."""
    by_run: dict[str, list[Record]] = {}
    for record in records_of(results, study):
        if record.distances.get("mean") is not None:
            by_run.setdefault(record.run, []).append(record)
    body = []
    for row in load_tables()["table6"].rows:
        if of_run := by_run.get(row.run):
            means = [record.distances["mean"] for record in of_run]
            shares = [record.distances["share"] for record in of_run]
            near, far = ([100 * share[index] for share in shares] for index in (0, 10))
            cells = [_spread(means, ".3f"), _spread(near, ".1f"), _spread([100 - one for one in far], ".1f")]
            body.append([markdown(row.key["Method"]), str(len(of_run)), *cells])
    caption = (
        "**Best anchors.** Distance between the anchor of highest score and that of highest IoU, over all "
        "objects, in units of the square root of an object's area; and the share of objects, in percent, "
        "where both are the same, and where they are more than 1 apart or no predicted box of its class "
        "touches the object."
    )
    header = ["Method", "Seeds", "Mean distance", "Same anchor", "More than 1 apart"]
    return markdown_table(caption, header, body, 1, [])


def _epochs(record: Record) -> int:
    return record.files["state.json"]["epochs"]


def _percent(record: Record, metric: str) -> str:
    return f"{record.files['ap.json'][metric]:.1f}"


def _spread(values: Sequence[float], spec: str) -> str:
    middle = format(mean(values), spec)
    return middle if len(values) == 1 else f"{middle} ± {format(stdev(values), spec)}"
