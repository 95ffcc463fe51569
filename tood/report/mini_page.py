"""The measured part of docs/mini.md: written from the files under `results/`, never by hand."""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

from tood.ledger.records import Record
from tood.report.claims_table import effect_with_interval, judge
from tood.report.front_page import code_changed, kept, measured_tables, records_of
from tood.report.markup import markdown, markdown_table
from tood.report.tables import build
from tood.study.claims import load_claims
from tood.study.declarations import load_runs, load_tables
from tood.study.pages import load_pages
from tood.study.paths import AP


def mini_part(results: Path) -> str:
    """The sweep, the orders, every table, the agreement of best anchors, and the other images."""
    page = load_pages().mini
    other = page.other_images
    parts = [
        "### Sweep\n",
        sweep(results),
        "### Orders\n",
        orders(results, page.study),
        "### Tables\n",
        *measured_tables(results, page.study),
        "### Best anchors\n",
        agreement(results, page.study),
    ]
    if records_of(results, other.study):
        tables = measured_tables(results, other.study, other.tables)
        parts += ["### On other images\n", on_both(results), *tables, agreement(results, other.study)]
    return "\n".join(parts)


def sweep(results: Path) -> str:
    """AP of each training of the sweep that chose the recipe."""
    page = load_pages().mini.sweep
    rows = []
    for folder in results.glob(page.studies):
        for record in records_of(results, folder.relative_to(results).as_posix()):
            settings, seed = record.provenance["settings"], record.content["seed"]
            epochs, rate = settings["run"]["epochs"], settings["train"]["lr"]
            values = [f"{_percent(record, metric)}{_mark(record)}" for metric in ("AP", "AP75")]
            rows.append((epochs, rate, record.run, seed, *values))
    body = [
        [run, str(seed), f"{rate:g}", str(epochs), *values]
        for epochs, rate, run, seed, *values in sorted(rows)
    ]
    header = ["Run", "Seed", "Learning rate", "Epochs", "AP", "AP75"]
    return markdown_table(page.caption, header, body, 2, [])


def orders(results: Path, study: str) -> str:
    """Rank correlation of each table with the paper, for each metric of enough rows."""
    metrics, runs, page = kept(results, study), load_runs(), load_pages().mini.orders
    body = []
    for table in load_tables(runs=runs).values():
        if not table.printed:
            continue
        frame = build(table, metrics[metrics["seed"].notna() & (metrics["stale"] == "")], {}, runs)
        for metric in table.metrics:
            both = frame[[metric, f"{metric}_paper"]].dropna()
            if len(both) >= page.rows:
                rho = both[metric].corr(both[f"{metric}_paper"], method="spearman")
                body.append([markdown(table.title), markdown(metric), str(len(both)), f"{rho:.2f}"])
    return markdown_table(page.caption, ["Table", "Metric", "Rows", "ρ"], body, 2, [])


def agreement(results: Path, study: str) -> str:
    """How well both best anchors of an object agree, over seeds."""
    page = load_pages().mini.best_anchors
    by_run: dict[str, list[Record]] = {}
    for record in records_of(results, study):
        if record.best_anchors.get("distance") is not None:
            by_run.setdefault(record.run, []).append(record)
    body = []
    for row in load_tables()[page.table].rows:
        if records := by_run.get(row.run):
            seeds = [record.best_anchors for record in records]
            lost = [means["localised"] - means["classified"] for means in seeds]
            columns = [[means[name] for means in seeds] for name in ("distance", "classified", "localised")]
            cells = [_spread(values) for values in (*columns, lost)]
            mark = max(map(_mark, records))
            body.append([f"{markdown(row.key['Method'])}{mark}", str(len(seeds)), *cells])
    header = ["Method", "Seeds", "Distance", "IoU, best score", "IoU, best box", "IoU lost"]
    return markdown_table(page.caption, header, body, 1, [])


def on_both(results: Path) -> str:
    """The effects on both sets of images side by side, for the claims that both can judge."""
    runs, page = load_runs(), load_pages().mini
    tables = load_tables(runs=runs)
    claims = load_claims(runs, tables)
    here, there = (
        judge(claims, kept(results, study), tables).to_dict("records")
        for study in (page.study, page.other_images.study)
    )
    body = []
    for claim, *rows in zip(claims, here, there, strict=True):
        if all(row["seeds"] > 1 for row in rows):
            spec = tables[claim.table].metrics[claim.metric]
            cells = [(effect_with_interval(row, spec), str(row["seeds"]), row["verdict"]) for row in rows]
            body.append([markdown(claim.claim), markdown(claim.metric), *cells[0], *cells[1]])
    header = ["Claim", "Metric", "ours", "Seeds", "Verdict", "on other images", "Seeds", "Verdict"]
    return markdown_table(page.other_images.caption, header, body, 2, [])


def _percent(record: Record, metric: str) -> str:
    """A metric of AP, or the state of a training that has none."""
    files = record.files
    if AP not in files:
        return markdown(str(files["state.json"]["state"]))
    value = files[AP][metric]
    return "–" if value is None else f"{value:.1f}"


def _mark(record: Record) -> str:
    """What follows a value that was obtained with other code than there is now."""
    return " (stale)" if code_changed(record) else ""


def _spread(values: Sequence[float]) -> str:
    """Mean and standard deviation."""
    return f"{mean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")
