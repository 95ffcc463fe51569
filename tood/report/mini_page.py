"""The measured parts of docs/mini.md and cells.md: written from the files under `results/`, not by hand."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev

from tood.ledger.records import Record
from tood.report.claim_sentences import findings
from tood.report.claims_table import by_welch
from tood.report.contrasts import common_seeds, estimate
from tood.report.effects import effect_with_interval
from tood.report.evidence import Evidence, summary, values_by_metric
from tood.report.front_page import cost, forest_picture, measured_tables
from tood.report.kept import Judged, code_changed, judged_study, kept, records_of
from tood.report.markup import DASH, markdown, markdown_table, number
from tood.report.readings import DEFAULT
from tood.report.shared_seeds import on_shared_seeds
from tood.report.tables import build, with_enough_objects
from tood.report.verdicts import Verdict
from tood.study.claims import load_beside, load_checks
from tood.study.declarations import load_runs, load_tables
from tood.study.pages import load_pages
from tood.study.paths import AP


def mini_part(results: Path) -> str:
    """What was measured: findings, differences beside the claims, sweep, orders, tables, other studies."""
    pages = load_pages()
    page, of_study = pages.mini, judged_study(results, pages.mini.study)
    checks = [check for check in load_checks(page.study, load_runs()) if records_of(results, check.study)]
    others = {
        check: measured_tables(results, check.study, page.of_others, least=2)
        for check in checks
        if check.study != pages.cells
    }
    notes, (own, *of_others) = _apart([measured_tables(results, page.study, least=2), *others.values()])
    parts = [
        "### Findings\n",
        findings(of_study.claims, of_study.judged, of_study.tables),
        "### Beside the claims\n",
        beside(of_study.evidence),
        "### Sweep\n",
        sweep(results),
        *(["### Orders\n", compared] if (compared := orders(results, page.study)) else []),
        "### Tables\n",
        *notes,
        *own,
        "### Best anchors\n",
        agreement(results, page.study),
    ]
    parts += ["### In other studies\n", elsewhere(of_study)] if checks else []
    for check, tables in zip(others, of_others, strict=True):
        parts += [f"### Tables of {check.name}\n", *tables, agreement(results, check.study)]
    return "\n".join(parts)


def cells_part(results: Path) -> str:
    """Of docs/cells.md: findings, and every table of the study on photographs."""
    study = load_pages().cells
    if not records_of(results, study):
        return "Pending: no training of this study has a record yet.\n"
    parts = [cost(results, study).strip(), *forest_picture(results, study, "../results")]
    notes, (tables,) = _apart([measured_tables(results, study, least=2)])
    of_study = judged_study(results, study)
    found = findings(of_study.claims, of_study.judged, of_study.tables)
    measured = [found, *notes, *tables, agreement(results, study)]
    return "\n".join([*(f"{part}\n" for part in parts), *measured])


def _apart(groups: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    """The notes that several tables have, and the tables without these; footnotes stay at their table."""
    split = [[table.rstrip().split("\n\n") for table in tables] for tables in groups]
    # Of a table the first parts are its caption and its rows.
    count = Counter(note for tables in split for table in tables for note in table[2:])
    notes = [note for note, tables in count.items() if tables > 1 and not note.startswith("<sup>")]
    shorter = [
        [
            "\n\n".join([*table[:2], *(note for note in table[2:] if note not in notes)]) + "\n"
            for table in tables
        ]
        for tables in split
    ]
    return [f"{note}\n" for note in notes], shorter


def beside(evidence: Evidence) -> str:
    """The differences without a verdict, in the study and in those that check it."""
    studies = {"ours": evidence.metrics, **{check.name: check.metrics for check in evidence.checks}}
    values = {name: values_by_metric(metrics).get("AP", {}) for name, metrics in studies.items()}
    body, shown = [], set()
    for each in load_beside(load_runs()):
        cells = {}
        for name, of_runs in values.items():
            if seeds := common_seeds(each.contrast, of_runs):
                cells[name] = _effect(estimate(each.contrast, of_runs, seeds).columns(), ".1f")
        body.append((each.what, cells))
        shown |= set(cells)
    names = [name for name in studies if name in shown]
    rows = [[markdown(what), *(cells.get(name, "–") for name in names)] for what, cells in body]
    return markdown_table(load_pages().mini.beside, ["Difference in AP", *names], rows, 1, [])


def sweep(results: Path) -> str:
    """AP of each training of the sweep that chose the recipe."""
    page = load_pages().mini.sweep
    rows = []
    for folder in results.glob(page.studies):
        for record in records_of(results, folder.relative_to(results).as_posix()):
            settings, seed = record.provenance["settings"], record.seed
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
    """Rank correlation of each table with the paper, for each metric of enough rows; empty without any."""
    metrics, runs = with_enough_objects(kept(results, study)), load_runs()
    page = load_pages().mini.orders
    body = []
    for table in load_tables(runs=runs).values():
        if not table.printed:
            continue
        for metric in table.metrics:
            frame = build(table, on_shared_seeds(metrics, [row.run for row in table.rows], metric), {}, runs)
            both = frame[[metric, f"{metric}_paper"]].dropna()
            if len(both) >= page.rows:
                rho = both[metric].corr(both[f"{metric}_paper"], method="spearman")
                body.append([markdown(table.title), markdown(metric), str(len(both)), number(rho, ".2f")])
    return markdown_table(page.caption, ["Table", "Metric", "Rows", "ρ"], body, 2, []) if body else ""


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


def elsewhere(of_study: Judged) -> str:
    """The effects in the study and in those that check it side by side, for the claims that any other has."""
    claims, tables, evidence, judged = of_study
    names = [check.name for check in evidence.checks]
    looks = judged[judged["decides"].astype(bool) & (judged["reading"] == DEFAULT)]
    body, notes = [], []
    for claim, own in zip(claims, summary(judged).to_dict("records"), strict=True):
        spec = tables[claim.table].metrics[claim.metric]
        of_claim = looks[looks["id"] == claim.id].set_index("check").to_dict("index")
        if any(of_claim[name]["seeds"] for name in names if name in of_claim):
            cells = [_effect(of_claim.get(name), spec) for name in ("", *names)]
            body.append([markdown(claim.claim), markdown(claim.metric), *cells, own["verdict"]])
            notes += [markdown(f"{claim.claim}: {own['note']}")] if own["note"] else []
    header = ["Claim", "Metric", "ours", *names, "Verdict"]
    return markdown_table(load_pages().mini.elsewhere, header, body, 2, notes)


def _effect(row: Mapping | None, spec: str) -> str:
    """An effect with its interval and its seeds; a dash where the study has no such runs."""
    if row is None:
        return DASH
    if not row["seeds"]:
        return str(Verdict.PENDING)
    effect = f"{effect_with_interval(row, spec)}, {row['seeds']} seed{'s' if row['seeds'] > 1 else ''}"
    return effect + by_welch(row) if "direction" in row else effect


def _percent(record: Record, metric: str) -> str:
    """A metric of AP, or the state of a training that has none."""
    files = record.files
    if AP not in files:
        return markdown(str(files["state.json"]["state"]))
    value = files[AP][metric]
    return DASH if value is None else f"{value:.1f}"


def _mark(record: Record) -> str:
    """What follows a value that was obtained with other code than there is now."""
    return " (stale)" if code_changed(record) else ""


def _spread(values: Sequence[float]) -> str:
    """Mean and standard deviation."""
    return f"{mean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")
