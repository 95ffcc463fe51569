"""Tables from hand-made metrics: values, status and the three renderings."""

import math
import re

import pandas as pd
import pytest

from tood.report.tables import build, to_latex, to_markdown, write
from tood.study.declarations import Row, Run, Table, load_runs, load_tables

RUNS = {
    name: Run(id=name, title=name, backbone="ResNet-50", epochs=12, config="atss.py")
    for name in ("one", "two", "three")
}
PAPER = {"FLOPs (G)": 104.87, "AP50": 57.4, "#Boxes": 30261}
TABLE = Table(
    name="table9",
    title="Table 9",
    caption="50% of α_1 & β",
    keys=["Method", "Weight"],
    metrics={"FLOPs (G)": ".2f", "AP50": ".1f", "#Boxes": ",.0f"},
    rows=[
        Row(key={"Method": "PAA*", "Weight": "ada"}, run="one", paper=PAPER, footnote="Has AP75 ± 1."),
        Row(key={"Method": "GFL†", "Weight": "ada"}, run="two", paper={**PAPER, "AP50": None}),
        Row(key={"Method": "a|b_c", "Weight": "{}"}, run="three", paper=PAPER, footnote="Has AP75 ± 1."),
    ],
)
FLOPS = ("FLOPs (G)", None, 100.741)


def metrics(**runs):
    """The data frame of (metric, seed, value) triples of each run."""
    records = [(run, seed, name, value) for run, rows in runs.items() for name, seed, value in rows]
    return pd.DataFrame(records, columns=["run", "seed", "metric", "value"])


def three_seeds(name, *values):
    return [(name, seed, value) for seed, value in enumerate(values)]


def test_one_seed():
    frame = build(TABLE, metrics(one=[FLOPS, ("AP50", 0, 57.0), ("#Boxes", 0, 30000)]), {}, RUNS)
    assert list(frame) == [
        "Method",
        "Weight",
        *("FLOPs (G)", "FLOPs (G)_paper", "AP50", "AP50_seeds", "AP50_paper"),
        *("#Boxes", "#Boxes_seeds", "#Boxes_paper", "run", "status"),
    ]
    assert frame["AP50_seeds"].to_list() == [1, 0, 0]
    assert frame.loc[0, ["FLOPs (G)", "AP50", "#Boxes"]].to_list() == [100.741, 57.0, 30000]
    assert frame.loc[0, ["FLOPs (G)_paper", "AP50_paper", "#Boxes_paper"]].to_list() == list(PAPER.values())
    assert frame["status"].to_list() == ["done", "pending", "pending"]
    assert frame.loc[1:, "AP50"].isna().all()
    assert math.isnan(frame.loc[1, "AP50_paper"])


def test_three_seeds():
    # Mean of 40, 41, 45 is 42; squared deviations 4 + 1 + 9 = 14, over n - 1 = 2, sd = sqrt(7).
    measured = metrics(one=[FLOPS, *three_seeds("AP50", 40, 41, 45), ("#Boxes", 0, 30000)])
    frame = build(TABLE, measured, {}, RUNS)
    of_ap50 = ["AP50", "AP50_sd", "AP50_seeds", "AP50_paper"]
    assert list(frame)[2:9] == ["FLOPs (G)", "FLOPs (G)_paper", *of_ap50, "#Boxes"]
    assert frame.loc[0, "AP50"] == pytest.approx(42)
    assert frame.loc[0, "AP50_sd"] == pytest.approx(math.sqrt(7))
    assert frame["AP50_seeds"].to_list() == [3, 0, 0]
    assert frame.loc[0, "status"] == "done"
    lines = to_markdown(TABLE, frame).splitlines()
    assert lines[2].startswith("| Method | Weight | Seeds | FLOPs (G) | paper |")
    assert lines[3] == "| :--- | :--- |" + " ---: |" * 7
    assert "| ada | 1–3 | 100.74 | 104.87 | 42.0 ± 2.6 | 57.4 |" in lines[4]
    assert "| ada | – | pending |" in lines[5]
    assert "Seeds: trainings that a value is the mean of; ± is their sample SD." in lines
    assert r"ada & 1--3 & 100.74 & 104.87 & 42.0 $\pm$ 2.6 & 57.4 &" in to_latex(TABLE, frame)


def test_metrics_of_a_row_may_have_different_numbers_of_seeds():
    measured = metrics(one=[*three_seeds("AP50", 40, 41, 45), *three_seeds("#Boxes", 3, 5)], two=[FLOPS])
    text = to_markdown(TABLE, build(TABLE, measured, {}, RUNS))
    assert "| ada | 2–3 | pending |" in text
    assert "| GFL† | ada | – | 100.74 |" in text  # of a model, not of trainings


@pytest.mark.parametrize(
    ("state", "status"),
    [
        (None, "pending"),
        ("pending", "pending"),
        ("done", "pending"),  # trained, yet not every metric of the row is there
        ("running", "running"),
        ("failed", "failed"),
        ("diverged", "diverged"),
    ],
)
def test_state_shows_while_metrics_are_incomplete(state, status):
    states = {} if state is None else {"one": state}
    partial = metrics(one=[("AP50", 0, 57.0)])
    frame = build(TABLE, partial, states, RUNS)
    assert frame["status"].to_list() == [status, "pending", "pending"]
    assert f"| {status} | 104.87 | 57.0 | 57.4 | {status} | 30,261 |" in to_markdown(TABLE, frame)

    complete = metrics(one=[FLOPS, ("AP50", 0, 57.0), ("#Boxes", 0, 1)])
    assert build(TABLE, complete, states, RUNS).loc[0, "status"] == "done"


@pytest.mark.parametrize(
    ("state", "status"),
    [("done", "stale"), ("pending", "stale"), ("stale", "stale"), ("running", "running"), ("oom", "oom")],
)
def test_a_stale_value_is_marked_wherever_it_shows(state, status):
    measured = metrics(one=[FLOPS, *three_seeds("AP50", 40, 41, 45), ("#Boxes", 0, 30000)])
    measured["stale"] = [False, False, True, False, False]  # one seed of three
    frame = build(TABLE, measured, {"one": state}, RUNS)
    assert frame["status"].to_list() == [status, "pending", "pending"]
    assert frame["AP50_stale"].to_list() == [True, False, False]
    assert not {"FLOPs (G)_stale", "#Boxes_stale"} & set(frame)
    assert "| 100.74 | 104.87 | 42.0 ± 2.6 (stale) | 57.4 | 30,000 |" in to_markdown(TABLE, frame)
    assert r"& 42.0 $\pm$ 2.6 (stale) &" in to_latex(TABLE, frame)


def test_what_is_up_to_date_has_no_column_for_staleness():
    measured = metrics(one=[FLOPS]).assign(stale=False)
    assert [name for name in build(TABLE, measured, {}, RUNS) if "stale" in name] == []


RECONSTRUCTED = RUNS | {
    "one": Run(
        id="one",
        title="One, a reconstruction",
        backbone="R",
        epochs=12,
        config="atss.py",
        reconstruction=True,
    )
}


def test_a_reconstruction_is_never_done():
    complete = metrics(one=[FLOPS, ("AP50", 0, math.nan), ("#Boxes", 0, 1)])
    frame = build(TABLE, complete, {"one": "done"}, RECONSTRUCTED)
    assert frame["status"].to_list() == ["reconstruction", "pending", "pending"]
    assert frame["reconstruction"].to_list() == [True, False, False]
    assert r"| PAA\* (reconstruction)<sup>a</sup> |" in to_markdown(TABLE, frame)
    assert "| n/a | 57.4 |" in to_markdown(TABLE, frame)  # not defined, and measured
    assert r"PAA* (reconstruction)\textsuperscript{a} &" in to_latex(TABLE, frame)


def test_a_reconstruction_that_is_not_there_yet_is_pending_and_named():
    frame = build(TABLE, metrics(), {"one": "failed"}, RECONSTRUCTED)
    assert frame.loc[0, "status"] == "failed"
    assert "(reconstruction)" in to_markdown(TABLE, frame).splitlines()[4]
    complete = metrics(one=[FLOPS, ("AP50", 0, 1.0), ("#Boxes", 0, 1)]).assign(stale=True)
    assert build(TABLE, complete, {"one": "done"}, RECONSTRUCTED).loc[0, "status"] == "stale"


def test_nothing_measured():
    frame = build(TABLE, metrics(), {}, RUNS)
    assert frame["status"].to_list() == ["pending", "pending", "pending"]
    assert frame[list(TABLE.metrics)].isna().all(axis=None)


def test_undefined_value_is_measured():
    frame = build(TABLE, metrics(one=[FLOPS, ("AP50", 0, math.nan), ("#Boxes", 0, 1)]), {}, RUNS)
    assert frame.loc[0, "status"] == "done"
    assert "| n/a | 57.4 |" in to_markdown(TABLE, frame)


def test_two_values_for_one_seed():
    with pytest.raises(ValueError, match="two values of one metric and seed"):
        build(TABLE, metrics(one=[FLOPS, FLOPS]), {}, RUNS)


def test_markdown():
    frame = build(TABLE, metrics(one=[FLOPS, ("#Boxes", 0, 1234567)]), {"one": "failed"}, RUNS)
    assert to_markdown(TABLE, frame, ["Two * seeds."]).splitlines() == [
        r"**Table 9.** 50% of α\_1 & β",
        "",
        "| Method | Weight | Seeds | FLOPs (G) | paper | AP50 | paper | #Boxes | paper |",
        "| :--- | :--- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        r"| PAA\*<sup>a</sup> | ada | 1 | 100.74 | 104.87 | failed | 57.4 | 1,234,567 | 30,261 |",
        "| GFL† | ada | – | pending | 104.87 | pending | – | pending | 30,261 |",
        r"| a\|b\_c<sup>a</sup> | {} | – | pending | 104.87 | pending | 57.4 | pending | 30,261 |",
        "",
        "<sup>a</sup> Has AP75 ± 1.",
        "",
        r"Two \* seeds.",
    ]


def test_latex():
    frame = build(TABLE, metrics(one=[FLOPS]), {"one": "failed"}, RUNS)
    text = to_latex(TABLE, frame, ["seed_0 ≥ 50%"])
    assert r"\caption{50\% of $\alpha$\_1 \& $\beta$}" in text
    assert r"\begin{tabular}{llrrrrrr}" in text
    assert r"Method & Weight & FLOPs (G) & paper & AP$_{50}$ & paper & \#Boxes & paper \\" in text
    assert r"PAA*\textsuperscript{a} & ada & 100.74 & 104.87 & failed & 57.4 & failed & 30,261 \\" in text
    assert r"GFL$^\dagger$ & ada & pending & 104.87 & pending & -- & pending & 30,261 \\" in text
    assert (
        r"a$|$b\_c\textsuperscript{a} & \{\} & pending & 104.87 & pending & 57.4 & pending & 30,261 \\"
        in text
    )
    assert r"\par \textsuperscript{a} Has AP$_{75}$ $\pm$ 1." in text
    assert r"\par seed\_0 $\geq$ 50\%" in text


@pytest.mark.parametrize("table", load_tables().values(), ids=lambda table: table.name)
def test_latex_of_every_table_is_well_formed(table):
    runs = load_runs()
    columns = len(table.columns) + (2 if table.printed else 1) * len(table.metrics)
    text = to_latex(table, build(table, metrics(), {}, runs), ["Scale: smoke."])
    rows = re.findall(r"^(.*) \\\\$", text, flags=re.MULTILINE)
    assert len(rows) == 1 + len(table.rows)
    for row in rows:
        assert len(re.findall(r"(?<!\\)&", row)) == columns - 1
    assert text.isascii()
    bare = re.sub(r"\\[%_&#${}]", "", text)
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0
    assert not re.search(r"[%#~]", bare)
    outside_math = re.sub(r"\$[^$]*\$", "", bare)
    assert not re.search(r"[_^<>|]", outside_math.replace(f"tab:{table.name}", ""))


def test_a_table_of_which_the_paper_prints_nothing():
    rows = [
        Row(key={"Method": name, "Weight": "ada"}, run=name, footnote="Is Σ².") for name in ("one", "two")
    ]
    table = TABLE.model_copy(update={"rows": rows, "metrics": {"Positives (first)": ".1f"}})
    frame = build(table, metrics(one=three_seeds("Positives (first)", 4, 5, 9)), {}, RUNS)
    of_metric = [f"Positives (first){part}" for part in ("", "_sd", "_seeds")]
    assert list(frame) == ["Method", "Weight", *of_metric, "run", "status"]
    assert to_markdown(table, frame).splitlines()[2:6] == [
        "| Method | Weight | Seeds | Positives (first) |",
        "| :--- | :--- | ---: | ---: |",
        "| one<sup>a</sup> | ada | 3 | 6.0 ± 2.6 |",
        "| two<sup>a</sup> | ada | – | pending |",
    ]
    assert r"Is $\Sigma$$^2$." in to_latex(table, frame)


def test_write(tmp_path):
    frame = build(TABLE, metrics(one=[FLOPS, ("AP50", 0, 0.1 + 0.2), ("#Boxes", 0, 1)]), {}, RUNS)
    folder = tmp_path / "tables"
    for _ in range(2):  # over its own files too
        write(TABLE, frame, folder, ["A note."])
    assert sorted(path.name for path in folder.iterdir()) == ["table9.csv", "table9.md", "table9.tex"]
    assert (folder / "table9.md").read_text(encoding="utf-8") == to_markdown(TABLE, frame, ["A note."])
    assert (folder / "table9.tex").read_text(encoding="utf-8") == to_latex(TABLE, frame, ["A note."])
    lines = (folder / "table9.csv").read_text(encoding="utf-8").splitlines()
    assert (
        lines[0] == "Method,Weight,FLOPs (G),FLOPs (G)_paper,AP50,AP50_seeds,AP50_paper,#Boxes,#Boxes_seeds,"
        "#Boxes_paper,run,status"
    )
    assert lines[1] == "PAA*,ada,100.741,104.87,0.3,1,57.4,1,1,30261,one,done"
    assert lines[3] == "a|b_c,{},,104.87,,0,57.4,,0,30261,three,pending"
    assert pd.read_csv(folder / "table9.csv").loc[0, "AP50"] == pytest.approx(0.3)


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    frame = build(TABLE, metrics(), {}, RUNS)
    write(TABLE, frame, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def refuse(source, target):
        raise OSError("no space left")

    monkeypatch.setattr("os.replace", refuse)
    with pytest.raises(OSError, match="no space left"):
        write(TABLE, frame, tmp_path, ["Another note."])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
