"""The declared runs and tables: complete, shared as in the paper, equal to its printed values."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from mmengine.config import Config

from tood.cli import main
from tood.study.declarations import (
    EXPERIMENTS,
    ExperimentError,
    cells_of,
    load_runs,
    load_tables,
    select_runs,
)

RUNS = load_runs()
TABLES = load_tables()
PAPER = Path(__file__).parents[2].parent / "shared" / "paper" / "tood.txt"
OF_PAPER = [run for run in RUNS.values() if run.in_paper]
ABLATIONS = [run for run in OF_PAPER if run.backbone == "ResNet-50"]


def test_sixty_runs():
    others = [run for run in OF_PAPER if run not in ABLATIONS]
    assert (len(ABLATIONS), len(others)) == (31, 29)
    assert (sum(run.epochs for run in ABLATIONS), sum(run.epochs for run in others)) == (396, 697)
    assert sum(run.epochs for run in OF_PAPER) == 1093


def test_runs_beside_the_papers_feed_no_table_of_the_paper():
    printed = {row.run for table in TABLES.values() if table.printed for row in table.rows}
    assert {run.id for run in OF_PAPER} == printed


def test_the_control_is_tal_but_for_the_assignment_and_t_head_with_atss_but_for_the_head():
    control, tal, t_head = RUNS["parallel_atss"], RUNS["tal"], RUNS["atss_af_thead"]
    assert (control.config, control.options) == (tal.config, t_head.options)
    assert tal.options == {}
    changed = Config.fromfile(EXPERIMENTS / "configs" / tal.config).to_dict()
    original = Config.fromfile(EXPERIMENTS / "configs" / t_head.config).to_dict()
    for key in ("type", "stacked_convs"):
        del changed["model"]["bbox_head"][key], original["model"]["bbox_head"][key]
    assert changed == original


def test_schedules():
    schedules = {12: (8, 11), 18: (12, 16), 24: (16, 22), 37: (29, 34)}
    assert {run.epochs: run.milestones for run in RUNS.values()} == schedules


def test_schedules_and_backbones_are_those_of_the_tables():
    for row in TABLES["table2"].rows:
        assert RUNS[row.run].epochs == (18 if row.key["Anchor assignment"].endswith("*") else 12)
    for row in TABLES["table5"].rows:
        assert str(RUNS[row.run].epochs) == row.details["Epochs"]
        assert RUNS[row.run].backbone.replace("x4d", "×4d") == row.key["Backbone"]


def test_rows_of_the_same_training_share_its_run():
    of_the_paper = {name: table for name, table in TABLES.items() if table.printed}
    cells = {run: cells_of(run, of_the_paper) for run in RUNS}
    assert {run: rows for run, rows in cells.items() if len(rows) > 1} == {
        "fovea": ["Table 1: FoveaBox / Parallel head", "Table 2: Center sampling / fixed / fixed / 1"],
        "atss_ab": ["Table 1: ATSS (anchor-based) / Parallel head", "Table 3: Anchor-based / ATSS"],
        "atss_af": [
            "Table 1: ATSS (anchor-free) / Parallel head",
            "Table 2: ATSS / fixed / fixed / 1",
            "Table 3: Anchor-free / ATSS",
            "Table 6: Parallel head + ATSS",
        ],
        "atss_af_thead": ["Table 1: ATSS (anchor-free) / T-head", "Table 6: T-head + ATSS"],
        "tal": ["Table 2: TAL / ada / ada / 1", "Table 6: Parallel head + TAL"],
        "tood_af": [
            "Table 3: Anchor-free / TOOD",
            "Table 4: 1.0 / 6",
            "Table 6: T-head + TAL",
            "Sweep of m: 13",
        ],
    }
    assert all(cells[run.id] for run in OF_PAPER)


def test_shared_cells_print_the_same_values_but_for_the_known_misprint():
    printed = {}
    for table in TABLES.values():
        for row in table.rows:
            for metric, value in row.paper.items():
                if value is not None:
                    printed.setdefault((row.run, metric), set()).add(value)
    assert {cell: values for cell, values in printed.items() if len(values) > 1} == {
        ("fovea", "AP75"): {39.7, 39.3}
    }


def test_sweep_of_m():
    rows = TABLES["table_m"].rows
    assert {row.key["m"]: row.run for row in rows} == {
        "5": "tood_m5",
        "9": "tood_m9",
        "13": "tood_af",
        "17": "tood_m17",
        "21": "tood_m21",
    }
    assert [row.paper["AP"] for row in rows] == [None, None, 42.5, None, None]


def printed_table(first_line: str, key_columns: int) -> list[tuple[list[str], list[float]]]:
    """Keys and values of one table of the paper's text, parsed without the project's declarations."""
    if not PAPER.exists():
        pytest.skip(f"the text of the paper, which is not ours to copy, is expected at {PAPER}")
    lines = iter(PAPER.read_text(encoding="utf-8").splitlines())
    next(line for line in lines if line.startswith(first_line))
    rows, above = [], [""] * key_columns
    for line in iter(lambda: next(lines), ""):
        line = re.sub(r" \[\d+\]", "", line).replace(" [†]", "†").replace(",", "")
        cells = line.split("\t")
        above = [cell or previous for cell, previous in zip(cells, above[:key_columns], strict=False)]
        values = [float(value) for cell in cells[key_columns:] for value in cell.split("/")]
        rows.append((above, values))
    return rows


@pytest.mark.parametrize(
    ("name", "first_line", "rows"),
    [
        ("table1", "Method\tHead\tHead/full Params (M)", 8),
        ("table2", "Anchor assignment\tPos/neg\tWeight\tAP", 14),
        ("table3", "Type\tMethod\tAP", 4),
        ("table4", "α\tβ\tAP", 6),
        ("table5", "Method\tReference\tBackbone\tAP", 29),
        ("table6", "Method\tAP\tPCC (top-50)", 4),
    ],
)
def test_values_are_the_printed_ones(name, first_line, rows):
    table = TABLES[name]
    keys = [key for key in table.keys if key != "#A"]  # not in the paper
    printed = printed_table(first_line, len(keys))
    assert len(printed) == rows
    declared = [
        ([row.key[key] for key in keys], [row.paper[metric] for metric in table.metrics])
        for row in table.rows
    ]
    assert declared == printed


def test_the_table_of_positives_has_the_schemes_of_table_2():
    table, own = TABLES["table2"], TABLES["positives"]
    assert not own.printed
    schemes, positives = (
        [(row.key["Anchor assignment"], row.key["#A"], row.run) for row in t.rows] for t in (table, own)
    )
    assert positives == schemes


def test_anchors_of_table_2_are_those_of_its_configurations():
    for row in TABLES["table2"].rows:
        head = Config.fromfile(EXPERIMENTS / "configs" / RUNS[row.run].config).model.bbox_head
        # A head without an anchor generator starts from points, one per location.
        anchors = head.get("anchor_generator", {"ratios": [1.0], "scales_per_octave": 1})
        assert row.key["#A"] == str(len(anchors["ratios"]) * anchors["scales_per_octave"]), row.run


def test_only_iqdet_is_a_reconstruction():
    assert [run.id for run in RUNS.values() if run.reconstruction] == ["iqdet_x101_64x4d_dcn", "iqdet_r50"]


def test_without_names_every_run_is_selected():
    assert select_runs(None, RUNS) == OF_PAPER


def test_every_run_has_its_configuration():
    for run in RUNS.values():
        assert (EXPERIMENTS / "configs" / run.config).is_file()


def test_swept_options_are_what_the_tables_say():
    for row in TABLES["table4"].rows:
        options = RUNS[row.run].options or {"model.train_cfg.alpha": 1.0, "model.train_cfg.beta": 6.0}
        assert options == {
            "model.train_cfg.alpha": float(row.key["α"]),
            "model.train_cfg.beta": float(row.key["β"]),
        }
    for row in TABLES["table_m"].rows:
        options = RUNS[row.run].options or {"model.train_cfg.assigner.topk": 13}
        assert options == {"model.train_cfg.assigner.topk": int(row.key["m"])}


def test_warm_ups_that_never_end():
    named = [run.id for run in RUNS.values() if "model.train_cfg.initial_epoch" in run.options]
    assert named == ["atss_ab_thead", "atss_af_thead", "parallel_atss"]
    assert all(RUNS[run].options["model.train_cfg.initial_epoch"] is None for run in named)


def test_select_runs():
    assert [run.id for run in select_runs(["tood_af", "tal", "tood_af"], RUNS)] == ["tood_af", "tal"]
    with pytest.raises(
        ExperimentError, match=r"unknown run 'tod_af'; did you mean tood_af.*`tood runs` lists"
    ):
        select_runs(["tod_af"], RUNS)
    with pytest.raises(ExperimentError, match=r"unknown run 'tabel3'; did you mean table3"):
        select_runs(["tabel3"], RUNS)


def test_list_runs(capsys):
    assert main(["runs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 60 + 2 + 7
    start = lines[0].index("cells")
    of_runs = lines[:61] + lines[63:]
    assert all(line[start - 2 : start] == "  " and line[start] != " " for line in of_runs)
    tal = next(line for line in lines if line.startswith("tal "))
    assert re.split(r"\s{2,}", tal) == ["tal", "ResNet-50", "12", "; ".join(cells_of("tal", TABLES))]

    assert main(["runs", "--json"]) == 0
    records = {record["id"]: record for record in json.loads(capsys.readouterr().out)}
    assert list(records) == list(RUNS)
    assert records["tal"]["cells"] == cells_of("tal", TABLES)
    assert records["tal"]["milestones"] == [8, 11]


def test_a_reconstruction_is_listed_as_one(tmp_path, monkeypatch, capsys):
    changes = {"reconstruction": True, "title": "ATSS (reconstruction)"}
    load(tmp_path, runs=spoilt(SMALL_RUNS, "runs", 0, **changes))
    runs = load_runs(tmp_path / "runs.yaml")
    tables = load_tables(tmp_path / "tables", runs)
    monkeypatch.setattr("tood.commands.runs.load_runs", lambda: runs)
    monkeypatch.setattr("tood.commands.runs.load_tables", lambda runs: tables)
    assert main(["runs"]) == 0
    assert "Table 3: free / ATSS (reconstruction)" in capsys.readouterr().out
    assert main(["runs", "--json"]) == 0
    assert [run["reconstruction"] for run in json.loads(capsys.readouterr().out)] == [True, False]


def test_reading_the_declarations_imports_nothing_heavy():
    program = (
        "import sys; from tood.study.declarations import *; load_tables();"
        "print({'torch', 'mmdet', 'pandas', 'numpy', 'snakemake'} & set(sys.modules))"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"


# Errors: a small valid declaration, spoilt in one place at a time.

SMALL_RUNS = {
    "schedules": {12: [8, 11]},
    "runs": [
        {"id": "atss", "title": "ATSS", "backbone": "ResNet-50", "epochs": 12, "config": "atss.py"},
        {"id": "later", "title": "Later", "backbone": "ResNet-50", "epochs": 12, "config": "atss.py"},
    ],
}
SMALL_TABLE = {
    "title": "Table 3",
    "caption": "A table.",
    "keys": ["Type", "Method"],
    "metrics": {"AP": ".1f", "AP50": ".1f"},
    "rows": [
        {"key": {"Type": "free", "Method": "ATSS"}, "run": "atss", "paper": {"AP": 39.2, "AP50": None}},
        {"key": {"Type": "free", "Method": "Later"}, "run": "later", "paper": {"AP": None, "AP50": None}},
    ],
}


def load(folder, runs=SMALL_RUNS, table=SMALL_TABLE):
    (folder / "runs.yaml").write_text(yaml.safe_dump(runs))
    (folder / "tables").mkdir()
    (folder / "tables" / "table3.yaml").write_text(yaml.safe_dump(table))
    return load_tables(folder / "tables", load_runs(folder / "runs.yaml"))


def spoilt(declaration, *place, **changes):
    """A deep copy with entries changed at a place, or removed where the change is None."""
    copy = yaml.safe_load(yaml.safe_dump(declaration))
    target = copy
    for step in place:
        target = target[step]
    for key, value in changes.items():
        if value is None:
            del target[key]
        else:
            target[key] = value
    return copy


def test_small_declaration_is_valid(tmp_path):
    assert cells_of("atss", load(tmp_path)) == ["Table 3: free / ATSS"]


@pytest.mark.parametrize(
    ("place", "changes", "message"),
    [
        (("runs", 0), {"id": "ATSS-1"}, r"runs: ATSS-1: id: String should match"),
        (("runs", 0), {"title": None}, r"runs: atss: title: Field required"),
        (
            ("runs", 0),
            {"optoins": {}},
            r"runs: atss: optoins: unknown key; remove it or correct its spelling",
        ),
        (("runs", 0), {"epochs": 36}, r"'atss': 36 epochs have no schedule; add one to `schedules`.*\[12\]"),
        (("runs", 0), {"milestones": [1]}, r"'atss': milestones follow from epochs; remove them"),
        (("runs", 1), {"id": "atss"}, r"run 'atss' is declared twice; remove or rename one"),
        (("runs", 1), {"config": None}, r"later: config: "),
        (("runs", 0), {"reconstruction": True}, r"atss: the title of a reconstruction must say so; write"),
        ((), {"runs": None}, r"runs: Field required"),
    ],
)
def test_runs_with_an_error(tmp_path, place, changes, message):
    with pytest.raises(ExperimentError, match=rf"runs\.yaml: .*{message}"):
        load(tmp_path, runs=spoilt(SMALL_RUNS, *place, **changes))


@pytest.mark.parametrize(
    ("place", "changes", "message"),
    [
        (("rows", 0), {"run": "ats"}, r"row free / ATSS: unknown run 'ats'; did you mean atss\? `tood runs`"),
        (("rows", 0), {"run": "zzz"}, r"row free / ATSS: unknown run 'zzz'; `tood runs` lists them"),
        (("rows", 0, "key"), {"Type": None}, r"row of atss .*\['Type'\]; its `key` must name exactly"),
        (("rows", 0, "paper"), {"AP75": 1.0}, r"row of atss .*\['AP75'\]; its `paper` must name exactly"),
        (("rows", 0, "paper"), {"AP": "39,2"}, r"rows: atss: paper: AP: Input should be a valid number"),
        (("rows", 0, "key"), {"Type": 0.5}, r"rows: atss: key: Type: Input should be a valid string"),
        (("rows", 0), {"footnotes": "x"}, r"rows: atss: footnotes: unknown key"),
        (("metrics",), {"AP": ".1x"}, r"metrics: '\.1x' of AP formats no number; write one such as \.1f"),
        (
            (),
            {"rows": [*SMALL_TABLE["rows"], {"key": {"Type": "a", "Method": "b"}, "run": "atss"}]},
            r"row of atss .*\['AP', 'AP50'\]; its `paper` must name exactly",
        ),
        ((), {"rows": SMALL_TABLE["rows"] * 2}, r"two rows are called 'free / ATSS'; make their keys differ"),
    ],
)
def test_table_with_an_error(tmp_path, place, changes, message):
    with pytest.raises(ExperimentError, match=rf"table3\.yaml: .*{message}"):
        load(tmp_path, table=spoilt(SMALL_TABLE, *place, **changes))


def test_a_table_of_which_the_paper_prints_nothing(tmp_path):
    own = spoilt(spoilt(SMALL_TABLE, "rows", 0, paper=None), "rows", 1, paper=None)
    table = load(tmp_path, table=own)["table3"]
    assert not table.printed
    assert table.rows[0].paper == {}


def test_run_that_feeds_nothing(tmp_path):
    orphan = SMALL_RUNS["runs"][0] | {"id": "orphan"}
    with pytest.raises(ExperimentError, match=r"tables: run 'orphan' feeds no row; name it in a table or"):
        load(tmp_path, runs=spoilt(SMALL_RUNS, runs=[*SMALL_RUNS["runs"], orphan]))


@pytest.mark.parametrize("text", ["runs: [", "", "- a list", None])
def test_file_that_is_no_declaration(tmp_path, text):
    path = tmp_path / "runs.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ExperimentError, match=r"runs\.yaml: (cannot be read as YAML|must hold keys)"):
        load_runs(path)
