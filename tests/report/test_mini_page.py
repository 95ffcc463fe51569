"""The measured part of docs/mini.md, from records that are written here."""

import functools
import math
import re
from collections import Counter

import pandas as pd
import pytest
from helpers.records import finish

from tood.data.shapes import CLASSES
from tood.engine.config import build_model, resolve
from tood.report.contrasts import paired_interval, welch_interval
from tood.report.effects import shown
from tood.report.front_page import cost
from tood.report.kept import Judged, judged_study, kept_evidence, records_of
from tood.report.markup import number
from tood.report.mini_page import agreement, beside, elsewhere, mini_part, orders, sweep
from tood.report.readings import DEFAULT
from tood.report.shared_seeds import on_shared_seeds, with_shared_seeds
from tood.study.declarations import load_runs, load_tables, select_runs
from tood.study.options import parse_options
from tood.study.paths import REPOSITORY
from tood.study.plan import Plan


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for seed in (0, 1):
        finish(Plan({"scale": "mini"}), "atss_af", seed)
    return tmp_path / "results"


def test_each_training_of_the_sweep_is_a_row(results):
    for lr, times in ((0.08, 1), (0.02, 1), (0.02, 2)):
        name = f"sweeps/mini_lr{lr}_schedule{times}"
        plan = Plan({"scale": "mini", "name": name, "lr": lr, "schedule": times, "runs": "atss_af"})
        finish(plan, "atss_af", 0, epochs=12 * times)
    rows = [line for line in sweep(results).splitlines() if line.startswith("| atss_af")]
    assert rows == [
        "| atss_af | 0 | 0.02 | 12 | 40.0 | 39.0 |",
        "| atss_af | 0 | 0.08 | 12 | 40.0 | 39.0 |",
        "| atss_af | 0 | 0.02 | 24 | 40.0 | 39.0 |",
    ]
    finish(plan, "atss_af", 0, epochs=24, state="diverged")
    assert "| atss_af | 0 | 0.02 | 24 | diverged | diverged |" in sweep(results)


def test_how_well_best_anchors_agree(results):
    (row,) = [line for line in agreement(results, "mini").splitlines() if line.startswith("| Parallel")]
    cells = "0.183 ± 0.000 | 0.600 ± 0.000 | 0.800 ± 0.000 | 0.200 ± 0.000"
    assert row == f"| Parallel head + ATSS | 2 | {cells} |"


def test_what_other_code_gave_is_marked(results):
    finish(Plan({"scale": "mini"}), "atss_af", 1, code="old")
    assert "| Parallel head + ATSS (stale) | 2 |" in agreement(results, "mini")
    plan = Plan({"scale": "mini", "name": "sweeps/mini_lr0.02", "lr": 0.02, "runs": "atss_af"})
    finish(plan, "atss_af", 0, code="old")
    assert "| atss_af | 0 | 0.02 | 12 | 40.0 (stale) | 39.0 (stale) |" in sweep(results)


def test_orders_are_compared_where_enough_rows_are_measured(results):
    """AP of Table 4 in the paper: 42.4, 42.3, 41.7, 42.5, 42.2, 41.5; here the first two change places.

    A seed that one row alone has does not count.
    """
    rows = load_tables()["table4"].rows
    values = dict(zip([row.run for row in rows], (50.3, 50.4, 49.7, 50.5, 50.2, 49.5), strict=True))
    write_metrics(results, "mini", *((run, 0, value) for run, value in values.items()), ("tood_af", 1, 1.0))
    text = orders(results, "mini")
    assert "| Table 4 | AP | 6 | 0.94 |" in text  # 1 - 6 * 2 / (6 * 35)
    assert "Table 3" not in text


def test_cost_is_that_of_the_records(results):
    assert cost(results, "mini") == " 2 trainings have a record; they took 0.0 hours of a CPU (one thread)."
    assert cost(results, "other") == ""
    finish(Plan({"scale": "mini"}), "atss_af", 1, code="old")
    assert " Of these records 1 are stale: " in cost(results, "mini")


def test_the_tables_of_other_studies_are_shown_where_there_are_any(results):
    assert "Tables of" not in mini_part(results)
    for options in ({"name": "sweeps/mini_data_seed1", "data_seed": 1}, {"name": "cells"}):
        finish(Plan({"scale": "mini"} | options), "atss_af", 0)
    part = mini_part(results)
    assert part.count("**Best anchors.**") == 2
    assert re.findall("### Tables of .*", part) == ["### Tables of images 1"]


def write_metrics(results, study: str, *rows: tuple) -> None:
    """AP by run and seed."""
    frame = pd.DataFrame(rows, columns=["run", "seed", "value"]).assign(metric="AP", stale=False)
    (results / study).mkdir(parents=True, exist_ok=True)
    frame.to_csv(results / study / "metrics.csv", index=False)


def test_effects_stand_beside_those_in_other_studies(results):
    """By hand: the differences 8, 9, 10 have the interval 9 -+ 4.303 / sqrt(3)."""
    for study, effects in (("mini", (8, 9, 10)), ("sweeps/mini_data_seed1", (1, -1)), ("cells", (3,))):
        rows = [("tood_af", seed, 40.0 + effect) for seed, effect in enumerate(effects)]
        rows += [("atss_af", seed, 40.0) for seed in range(len(effects))]
        # Of one study alone: no claim that rests on it is shown.
        rows += [("fovea", 0, 50.0), ("fovea_thead", 0, 50.0)] if study == "mini" else []
        write_metrics(results, study, *rows)
    header, _, row = [
        line for line in elsewhere(judged_study(results, "mini")).splitlines() if line.startswith("|")
    ]
    names = ["ours", "images 1", "images 2", "36 epochs", "photographs", "Verdict"]
    assert header.strip("| ").split(" | ") == ["Claim", "Metric", *names]
    claim, metric, ours, first, *others, photographs, verdict = row.strip("| ").split(" | ")
    assert (claim, metric) == ("TOOD is better than ATSS, anchor-free", "AP")
    assert ours == "+9.0 (+6.5 to +11.5), 3 seeds"
    assert first == "+0.0 (−12.7 to +12.7), 2 seeds"  # 12.706 * sqrt(2) / sqrt(2)
    assert others == ["pending", "pending"]
    assert (photographs, verdict) == ("+3.0, 1 seed", "same direction")


def test_differences_beside_the_claims_have_no_verdict(results):
    values = {"atss_ab": (41.0, 43.0), "atss_af": (40.0, 40.0), "tood_af": (50.0,)}
    rows = [(run, seed, value) for run, of_run in values.items() for seed, value in enumerate(of_run)]
    write_metrics(results, "mini", *rows)
    write_metrics(results, "cells", *((run, seed, -value) for run, seed, value in rows if run != "tood_af"))
    header, _, first, *others = [
        line for line in beside(kept_evidence(results, "mini")).splitlines() if line.startswith("|")
    ]
    assert header == "| Difference in AP | ours | photographs |"
    cells = "+2.0 (−10.7 to +14.7), 2 seeds | −2.0 (−14.7 to +10.7), 2 seeds"
    assert first.endswith(f"| {cells} |")
    assert all(line.endswith("| – | – |") for line in others)


def test_an_edited_record_is_not_shown(results):
    path = records_of(results, "mini")[0].path
    path.write_text(path.read_text().replace("40.0", "60.0"))
    with pytest.raises(ValueError, match="does not fit its checksum"):
        mini_part(results)


@functools.cache  # several tests ask for the same study
def committed(study: str) -> Judged:
    """The claims judged by what is committed of a study."""
    return judged_study(REPOSITORY / "results", study)


def beside_the_claims() -> list[str]:
    """The lines on what is committed."""
    return beside(committed("mini").evidence).splitlines()


def by_id(study: str, check: str = "") -> pd.DataFrame:
    """What records say of each claim by the default reading: those of a study, or of one that checks it."""
    judged = committed(study).judged
    chosen = judged["decides"].astype(bool) & (judged["check"] == check) & (judged["reading"] == DEFAULT)
    return judged[chosen].set_index("id")


def test_what_pages_say_in_words_is_in_the_records():
    """README.md: the main claim in both studies, and the best anchors; docs/mini.md: what was found."""
    mini, cells = by_id("mini"), by_id("cells")
    assert (mini.loc["tood_af", "seeds"], cells.loc["tood_af", "seeds"]) == (10, 5)
    ahead = mini.loc[["tood_af", "tood_ab", "head_alone", "assignment_alone"]]
    assert set(ahead["direction"]) == {"same direction"}
    assert (ahead["holm_p"] < 0.05).all()
    assert (mini.loc["tood_af_ap75", "mean"].round(1), cells.loc["tood_af_ap75", "mean"].round(1)) == (
        11,
        -0.2,
    )
    names = ["tood_af", "head_alone", "assignment_alone", "more_than_the_sum", "tal"]
    assert mini.loc[names, "mean"].round(1).tolist() == [8.9, 4.7, 5.8, 8.1, 1.0]
    assert cells.loc[names, "mean"].round(1).tolist() == [-2.1, 2.6, -4.8, 8.4, -9.0]
    alone = cells.loc[["t_head_atss_af", "tal"], "mean"]
    assert (round(alone.iloc[0], 1), round(alone.sum(), 1)) == (-1.6, -10.5)
    same, opposite, open_ = "same direction", "opposite", "inconclusive"
    assert mini.loc[names, "direction"].tolist() == [same, same, same, same, open_]
    assert cells.loc[names, "direction"].tolist() == [opposite, same, opposite, same, opposite]
    for study in (mini, cells):
        assert set(study.loc[["redundant", "error", "more_than_the_sum", "iou"], "direction"]) == {same}
        assert study.loc["t_head_atss_af", "direction"] == open_
    assert set(mini.loc[["anchors_alike", "correct", "m"], "direction"]) == {opposite}
    assert mini.loc[["anchors_alike", "m"], "mean"].round(1).tolist() == [-4.4, 1.1]
    assert mini.loc["m", ["contrast", "welch_direction", "seeds"]].tolist() == [
        "tood_m9 - tood_m21",
        open_,
        5,
    ]
    assert mini.loc["correct", ["mean", "base"]].round().tolist() == [-8, 1409]
    assert mini.loc["alpha_beta", "direction"] == open_
    assert mini.loc["alpha_beta", "contrast"] == "tood_af - tood_alpha05_beta2"
    alike = mini.loc["alpha_beta", ["mean", "low", "high", "welch_low", "welch_high"]].astype(float)
    assert (alike.round(1).tolist(), mini.loc["alpha_beta", "seeds"]) == ([0.0, -1.2, 1.3, -2.5, 2.5], 5)
    for study, redundant, error in ((mini, 32, 22), (cells, 59, 44)):
        shares = (100 * study["mean"] / study["base"]).round()
        assert shares[["redundant", "error"]].tolist() == [redundant, error]
    paper = (100 * mini["paper"] / mini["paper_base"]).round()
    assert paper[["redundant", "error"]].tolist() == [40, 26]
    assert set(cells.loc[["anchors_alike", "correct"], "direction"]) == {open_}
    assert mini.loc["pcc", "direction"] == open_
    assert cells.loc["pcc", "direction"] == opposite
    assert cells.loc[["head_alone", "more_than_the_sum", "pcc", "tood_af"], "holm_p"].min() > 0.05

    longer = by_id("mini", "36 epochs")
    parts = ["tood_af", "t_head_atss_af", "tal", "more_than_the_sum"]
    assert set(longer.loc[parts, "seeds"]) == {3}
    assert longer.loc[parts, "direction"].tolist() == [same, same, open_, open_]
    assert longer.loc[parts[:2], "mean"].round(1).tolist() == [9.7, 2.6]
    assert set(longer.loc[["t_head_atss_af", "pcc"], "welch_direction"]) == {open_}
    assert longer.loc["tal", ["low", "high"]].astype(float).round(1).tolist() == [-7.4, 12.8]
    assert longer.loc["tood_af", ["low", "high"]].astype(float).round(1).tolist() == [3.1, 16.4]
    assert longer.loc[["redundant", "error", "pcc", "correct"], "direction"].tolist() == [
        same,
        same,
        *[opposite] * 2,
    ]

    first, second = (by_id("mini", f"images {number}") for number in (1, 2))
    intervals = [
        draw.loc["tood_af", ["low", "high"]].astype(float).round(1).tolist() for draw in (first, second)
    ]
    assert intervals == [[3.1, 17.7], [0.2, 14.2]]
    sums = [
        draw.loc["more_than_the_sum", ["direction", "welch_direction"]].tolist() for draw in (first, second)
    ]
    assert sums == [[open_, open_], [same, open_]]
    assert second.loc["more_than_the_sum", "mean"].round(1) == 5.2
    for draw in (first, second):
        assert set(draw.loc[["tood_af", "redundant", "error", "iou"], "direction"]) == {same}
        assert set(draw.loc[["correct", "pcc"], "direction"]) == {open_}
    heads = mini.loc[["t_head_fovea", "t_head_fcos", "t_head_atss_ab"]]
    assert set(heads["direction"]) == {open_}
    assert set(heads["seeds"]) == {3}
    assert (heads["mean"].min().round(1), heads["mean"].max().round(1)) == (2.6, 4.9)
    tap = mini.loc["tal_tap_paa"]
    assert (tap["direction"], tap["welch_direction"], round(tap["mean"], 1)) == (same, open_, 6.8)
    assert tap["holm_p"] > 0.05
    order = orders(REPOSITORY / "results", "mini")
    assert "| Table 1 | AP | 8 | 0.36 |" in order
    assert "| Table 2 | AP | 14 | 0.87 |" in order

    results = REPOSITORY / "results"
    means = {row.split(" |")[0]: row for row in agreement(results, "mini").splitlines()}
    for method, distance, lost in (
        ("T-head + TAL", "0.362", "0.181"),
        ("Parallel head + ATSS", "0.326", "0.217"),
    ):
        assert re.search(rf"\| {distance} ± .* \| {lost} ±", means[f"| {method}"])
    for study, atss, tood, lead in (("mini", 28.0, 35.5, 7.5), ("sweeps/mini_schedule3", 49.4, 59.1, 9.7)):
        values = pd.read_csv(results / study / "metrics.csv").query("metric == 'AP' and seed < 3")
        ap = values.groupby("run")["value"].mean()
        assert ap[["atss_af", "tood_af"]].round(1).tolist() == [atss, tood]
        assert round(ap["tood_af"] - ap["atss_af"], 1) == lead
    ap = pd.read_csv(results / "mini/metrics.csv").query("metric == 'AP'")
    ap = ap.pivot_table("value", "seed", "run")
    of_atss, leads = ap["atss_af"], (ap["tood_af"] - ap["atss_af"]).dropna()
    assert (of_atss.idxmax(), of_atss.max().round(1)) == (0, 33.5)
    assert (leads.idxmin(), leads.min().round(1)) == (0, 2.7)
    rates = {}
    for rate in ("0.02", "0.04", "0.08"):
        of_rate = pd.read_csv(results / f"sweeps/mini_lr{rate}/metrics.csv").query("metric == 'AP'")
        by_run = of_rate.groupby("run")["value"].mean()
        rates[rate] = (by_run.mean().round(1), round(by_run["tood_af"] - by_run["atss_af"], 1))
    assert rates == {"0.02": (33.2, 11.7), "0.04": (32.5, 9.8), "0.08": (32.6, 9.4)}


def test_what_pages_say_of_the_price_of_a_choice_by_score_is_in_the_records():
    lost = {}
    for study in (
        "mini",
        "cells",
        *(f"sweeps/mini_{name}" for name in ("data_seed1", "data_seed2", "schedule3")),
    ):
        rows = [row.split(" | ") for row in agreement(REPOSITORY / "results", study).splitlines()]
        of_method = {row[0]: row[-1].split()[0] for row in rows if len(row) > 1}
        lost[study] = [of_method[f"| {method}"] for method in ("T-head + TAL", "Parallel head + ATSS")]
    assert (lost["mini"], lost["cells"]) == (["0.181", "0.217"], ["0.113", "0.114"])
    assert all(float(tood) < float(atss) for study, (tood, atss) in lost.items() if study != "cells")


def test_what_the_page_says_of_the_order_of_table_2_is_in_the_records():
    table = load_tables()["table2"]
    metrics = pd.read_csv(REPOSITORY / "results/mini/metrics.csv")
    shared = on_shared_seeds(metrics, [row.run for row in table.rows])
    ours, epochs = shared.groupby("run")["value"].mean(), shared.groupby("run")["epochs"].first()
    assert (epochs[ours.sort_values().index[-4:]] == 18).all()
    short = epochs.index[epochs == 12]
    paper = pd.Series({row.run: row.paper["AP"] for row in table.rows})
    assert (len(ours), len(short)) == (14, 10)
    assert round(ours[short].corr(paper[short], method="spearman"), 2) == 0.76


def test_the_page_says_how_large_the_detectors_are():
    """Of all runs of the study these two are the smallest and the largest."""
    plan, categories = Plan({"scale": "mini"}), [{"name": name} for name in CLASSES]
    models = [build_model(resolve(plan.settings(run), categories, None)) for run in ("tood_af", "iqdet_r50")]
    sizes = [sum(parameter.numel() for parameter in model.parameters()) for model in models]
    assert [math.floor(size / 1e4) / 100 for size in sizes] == [0.28, 0.39]


def test_the_committed_figures_of_sweeps_show_common_seeds():
    results = REPOSITORY / "results/mini"
    metrics = pd.read_csv(results / "metrics.csv")
    for figure, table in (("sweep_m", "table_m"), ("alpha_beta", "table4")):
        _, seeds = with_shared_seeds(pd.read_csv(results / f"tables/{table}.csv"), metrics)
        assert seeds == [0, 1, 2, 3, 4]
        assert "(0, 1, 2, 3, 4)" in (results / f"figures/{figure}.md").read_text()


def test_the_first_table_of_the_page_is_in_the_records():
    page = (REPOSITORY / "docs/mini.md").read_text()
    studies = [by_id("mini", check) for check in ("", "images 1", "images 2", "36 epochs")] + [by_id("cells")]
    for row, claim in (
        ("TOOD − ATSS, anchor-free, AP", "tood_af"),
        ("T-head − control, AP", "head_alone"),
        ("TAL − control, AP", "assignment_alone"),
    ):
        means = [study["mean"].get(claim, math.nan) for study in studies]
        cells = [shown(value, ".1f") for value in (studies[0].loc[claim, "paper"], *means)]
        assert f"\n| {row} | {' | '.join(cells)} |\n" in page
    for claim in ("redundant", "error"):
        shares = [study.loc[claim, "mean"] / study.loc[claim, "base"] for study in studies]
        shares.insert(0, studies[0].loc[claim, "paper"] / studies[0].loc[claim, "paper_base"])
        cells = " | ".join(f"{number(-100 * share, '.0f')}%" for share in shares)
        assert f"\n| {claim} boxes, TOOD against ATSS | {cells} |\n" in page
    tal = next(line for line in beside_the_claims() if "both with T-head" in line)
    cells = " | ".join(cell.split()[0] for cell in tal.split(" | ")[1:])
    paper = {row.run: row.paper["AP"] for row in load_tables()["table6"].rows}
    gain = shown(paper["tood_af"] - paper["atss_af_thead"], ".1f")
    assert f"\n| TAL − ATSS's assignment, both with T-head, AP | {gain} | {cells} |\n" in page


def test_what_pages_say_of_differences_beside_the_claims_is_in_the_records():
    """docs/mini.md and docs/cells.md, in the order of `experiments/claims.yaml`."""
    rows = [line.split(" | ") for line in beside_the_claims() if line.startswith("| ")]
    assert [name.strip("| ") for name in rows[0][1:]] == [
        "ours",
        "images 1",
        "images 2",
        "36 epochs",
        "photographs",
    ]
    effects = [[cell.split(")")[0] + ")" for cell in (row[1], row[5])] for row in rows[2:]]
    assert effects[0][0] == "−0.6 (−2.1 to +0.9)"
    assert [pair[0].split()[0] for pair in effects[1:]] == ["−4.9", "+9.1", "+13.8", "+3.2"]
    assert effects[1][1].split()[0] == "−4.2"
    assert [pair[1] for pair in effects[2:4]] == ["−0.5 (−3.3 to +2.3)", "+2.1 (−0.4 to +4.7)"]


def test_what_pages_say_of_the_readings_is_in_the_records():
    """How many of the eight definitions of PCC have which direction, and that those of the IoU agree."""
    for study, same, opposite in (("mini", 1, 3), ("cells", 0, 7)):
        judged = committed(study).judged
        own = judged[judged["check"] == ""]
        directions = own[own["id"] == "pcc"]["direction"].tolist()
        counts = (len(directions), directions.count("same direction"), directions.count("opposite"))
        assert counts == (8, same, opposite)
        assert set(judged[judged["id"] == "iou"]["direction"]) <= {"same direction", "pending"}
    one = own[(own["id"] == "pcc") & (own["direction"] == "same direction")]
    assert set(one["welch_direction"]) <= {"inconclusive"}


def test_what_the_page_on_photographs_says_in_words_is_in_the_records():
    cells, values = by_id("cells"), pd.read_csv(REPOSITORY / "results/cells/metrics.csv")
    assert cells.loc["tood_af", "p"] < 0.05 < cells.loc["tood_af", "holm_p"]
    ap = values.groupby(["run", "metric"])["value"].mean().round(1)
    assert [ap["atss_af", metric] for metric in ("AP", "AP50", "AP75")] == [52.6, 87.3, 57.3]
    assert [ap["tood_af", metric] for metric in ("AP", "AP50", "AP75")] == [50.5, 81.4, 57.2]
    assert values.loc[values["metric"] == "AP", ["run", "seed"]].drop_duplicates().shape == (35, 2)
    ap50 = values.query("metric == 'AP50'").pivot_table("value", "seed", "run")
    low, high = paired_interval((ap50["tood_af"] - ap50["atss_af"]).to_numpy())
    assert (round(low, 1), round(high, 1)) == (-8.1, -3.8)
    assert cells.loc["correct", ["low", "high", "welch_low", "welch_high"]].astype(float).round(
        1
    ).tolist() == [
        *[-7.3, 0.1],
        *[-6.4, -0.8],
    ]
    assert round(cells.loc["pcc", "holm_p"], 3) == 0.056
    by_seed = values.query("metric == 'AP'").pivot_table("value", "seed", "run")
    both = {run: by_seed[run].to_numpy() for run in ("tood_af", "parallel_atss")}
    low, high = welch_interval({"tood_af": 1, "parallel_atss": -1}, both)
    assert (round(low, 1), round(high, 1)) == (0.3, 3.9)
    correct = values[values["metric"] == "#Correct boxes"].groupby("run")["value"].mean().round()
    assert (correct["tood_af"], correct["atss_af"]) == (935, 939)


def planned() -> set[tuple[str, str, int]]:
    """Study, run and seed of every training that a command of docs/mini_plan.md names."""
    text = (REPOSITORY / "docs/mini_plan.md").read_text()
    commands = []
    for row in re.findall(r"^\|.*\| \d+ \|.*", text, re.MULTILINE):
        first, *others = re.findall(r"`([^`]+)`", row) or [""]
        commands.append(first)
        value = re.search(r"[\d.]*$", first)[0]  # in its place come those of "so with"
        for other in filter(re.compile(r"[\d.]+").fullmatch, others):
            commands.append(re.sub(rf"(?<=[=a-z]){re.escape(value)}\b", other, first))
    plans = [Plan({"scale": "mini"} | parse_options(command.split())) for command in commands]
    return {(plan.name, training.run, training.seed) for plan in plans for training in plan.trainings}


def test_the_trainings_of_the_plan_have_records_and_no_others():
    """No run was dropped, no seed replaced, and nothing was added."""
    results = REPOSITORY / "results"
    studies = ["mini", "cells", *(f"sweeps/{path.name}" for path in (results / "sweeps").glob("mini_*"))]
    trained = {(study, each.run, each.seed) for study in studies for each in records_of(results, study)}
    plan = planned()
    assert len(plan) == 252
    assert trained == plan
    for name in ("README.md", "docs/mini.md"):
        assert re.search(r"(?i)all 252 trainings", (REPOSITORY / name).read_text())
    counts = Counter(study.partition("/")[0] for study, _, _ in plan)
    assert counts == {"mini": 169, "cells": 35, "sweeps": 48}
    readme = (REPOSITORY / "README.md").read_text()
    assert "169 under the name `mini`, 35 on photographs, and 48 of variations in `results/sweeps`" in readme


def test_what_the_readme_says_of_the_runs_of_mini_is_so():
    """38 runs: the 31 of the paper with ResNet-50, six of Table 5 alone, and the control."""
    runs, measured = load_runs(), {record.run for record in records_of(REPOSITORY / "results", "mini")}
    of_paper = {run.id for run in select_runs(None, runs)}
    small = {run for run in of_paper if runs[run].backbone == "ResNet-50"}
    assert (len(measured), len(of_paper), len(small)) == (38, 60, 31)
    of_table_5 = {row.run for row in load_tables()["one_backbone"].rows} - of_paper
    assert len(of_table_5) == 6
    assert measured == small | of_table_5 | {"parallel_atss"}


def test_the_page_says_which_cpus_trained_what():
    results, tables = REPOSITORY / "results", load_tables()
    main = {row.run for name in ("control", "table3") for row in tables[name].rows}
    records = records_of(results, "mini")
    parts = (
        [record for record in records if record.run in main]
        + [
            record
            for study in ("cells", *(f"sweeps/mini_lr{rate}" for rate in ("0.02", "0.04", "0.08")))
            for record in records_of(results, study)
        ],
        [record for record in records if record.run not in main]
        + [
            record
            for study in ("mini_schedule3", "mini_data_seed1", "mini_data_seed2")
            for record in records_of(results, f"sweeps/{study}")
        ],
    )
    first, second = ({record.provenance["hardware"]["cpu"] for record in part} for part in parts)
    assert len(first) == len(second) == 1
    assert first != second
