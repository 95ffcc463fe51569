"""Published values: those of mmdetection against its metafiles, and what tables show of all."""

import re
from pathlib import Path

import mmdet
import pandas as pd
import pytest
import yaml

from tood.ledger.references import Reference, load_references, reference_on
from tood.report.tables import build, to_latex, to_markdown
from tood.study.declarations import ExperimentError, load_runs, load_tables

RUNS = load_runs()
REFERENCES = load_references(RUNS)
TABLES = load_tables(runs=RUNS)
CONFIGS = Path(mmdet.__file__).parent / ".mim" / "configs"
NOTHING = pd.DataFrame(columns=["run", "seed", "metric", "value"])


def zoo(folder: str) -> dict[str, float]:
    """AP of each model in a metafile of the installed mmdetection."""
    models = yaml.safe_load((CONFIGS / folder / "metafile.yml").read_text())["Models"]
    return {
        model["Name"]: result["Metrics"]["box AP"]
        for model in models
        for result in model["Results"]
        if result["Task"] == "Object Detection"
    }


ZOO = [
    (run, entry)
    for run, entries in REFERENCES.items()
    for entry in entries
    if entry.source.startswith("mmdetection")
]


@pytest.mark.parametrize(("run", "entry"), ZOO, ids=[run for run, _ in ZOO])
def test_numbers_of_mmdetection_are_those_of_its_metafile(run, entry):
    version, name, folder = re.fullmatch(
        r"mmdetection (\S+), (\S+) in configs/(\w+)/metafile\.yml", entry.source
    ).groups()
    assert version == mmdet.__version__
    assert entry.set == "val2017"
    assert entry.metrics == {"AP": zoo(folder)[name]}


def test_enough_numbers_are_of_mmdetection():
    assert len(ZOO) > 15


def test_the_metafile_of_vfnet_prints_test_dev():
    """The one exception: its eight values are the README's column of test-dev, not that of val."""
    name = "vfnet_x101-64x4d-mdconv-c3-c5_fpn_ms-2x_coco"
    entries = REFERENCES["vfnet_x101_64x4d_dcn"]
    assert zoo("vfnet")[name] == reference_on("test-dev2017", entries).metrics["AP"] == 50.8
    assert reference_on("val2017", entries).metrics["AP"] == 50.4
    assert not any(entry.source.startswith("mmdetection") for entry in entries)


def test_the_papers_own_numbers_on_test_dev_are_those_of_its_readme_but_for_one():
    """Table 5 prints what the README has on test-dev; the value on val is another."""
    rows = {row.run: row.paper["AP"] for row in TABLES["table5"].rows}
    ours = [run for run in rows if run.startswith("tood_")]
    readme = {run: reference_on("test-dev2017", REFERENCES[run]).metrics["AP"] for run in ours}
    assert len(ours) == 4
    assert {run: (rows[run], ap) for run, ap in readme.items() if rows[run] != ap} == {
        "tood_x101_64x4d": (48.3, 48.5)
    }
    assert all(reference_on("val2017", REFERENCES[run]).metrics["AP"] < readme[run] for run in ours)


def test_every_table_says_which_images_the_papers_values_are_of():
    assert {name: table.paper_set for name, table in TABLES.items()} == {
        **dict.fromkeys(("table1", "table2", "table3", "table4", "table6", "table_m"), "val2017"),
        "table5": "test-dev2017",
        "positives": None,
        "control": None,
        "one_backbone": None,
    }
    others = {row.run: row.paper_set for table in TABLES.values() for row in table.rows if row.paper_set}
    assert others == {"freeanchor": "test-dev2017", "mal": "test-dev2017"}


def cells(text: str, name: str) -> list[str]:
    """The cells of the row of Markdown that has this name."""
    line = next(line for line in text.splitlines() if line.startswith("|") and f"| {name}" in line)
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_reference_beside_ours_is_of_the_same_images():
    table = TABLES["table5"]
    frame = build(table, NOTHING, {}, RUNS, (), REFERENCES)
    found = frame.set_index("run")
    assert found.loc["tood_r101", ["AP_paper", "AP_reference", "paper_set"]].to_list() == [
        46.7,
        46.2,
        "test-dev2017",
    ]
    assert found.loc["tood_r101", "reference_source"] == "README of fcjian/TOOD"
    # Published on test-dev alone: kept in the file, and not compared with a value on val.
    assert [entry.set for entry in REFERENCES["ota_x101_64x4d_dcn"]] == ["test-dev2017"]
    assert found.loc["ota_x101_64x4d_dcn", ["AP_reference", "reference_source"]].isna().all()
    assert not {"AP50_reference", "AP_test_dev"} & set(frame)  # no row has one
    text = to_markdown(table, frame)
    assert cells(text, "Method")[3:6] == table.details
    assert cells(text, "Method")[6:10] == ["AP (val)", "paper (test-dev)", "reference (val)", "AP50 (val)"]
    assert "paper, COCO test-dev2017; reference, COCO val2017" in text


def test_sources_are_numbered_and_named_below():
    table = TABLES["table2"]
    frame = build(table, NOTHING, {}, RUNS, (), REFERENCES)
    text = to_markdown(table, frame)
    mark = re.search(r"<sup>(\d+)</sup> Reference: README of henrylee2570/NoisyAnchor; there: shorter", text)
    assert f"| 38.6<sup>{mark[1]}</sup> |" in text
    assert "| 39.1 (test-dev) |" in text  # FreeAnchor, in a column of val2017
    assert "paper, COCO val2017, test-dev2017 where a cell says so" in text
    assert r"38.6\textsuperscript{" in to_latex(table, frame)


def test_one_source_has_one_number():
    text = to_markdown(TABLES["table3"], build(TABLES["table3"], NOTHING, {}, RUNS, (), REFERENCES))
    assert text.count("README of fcjian/TOOD") == 1
    assert "| 42.5<sup>1</sup> |" in text
    assert "| 42.4<sup>1</sup> |" in text


def test_sizes_are_of_no_images():
    """Parameters and FLOPs have neither a set nor a reference."""
    table = TABLES["table1"].model_copy(update={"metrics": {"Head params (M)": ".2f"}})
    text = to_markdown(table, build(table, NOTHING, {}, RUNS, (), REFERENCES))
    assert "Images:" not in text
    assert "reference" not in text


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"tod_af": []}, r"references: unknown run 'tod_af'; did you mean tood_af"),
        (
            {"tood_af": [{"set": "val", "source": "x", "metrics": {"AP": 1}}]},
            r"tood_af: 0: set: Input should",
        ),
        (
            {"tood_af": [{"set": "val2017", "source": "x", "metrics": {"mAP": 1}}]},
            r"tood_af: 0: metrics: mAP",
        ),
        (
            {"tood_af": [{"set": "val2017", "source": "x", "metrics": {"AP": 425}}]},
            r"AP: .*less than or equal",
        ),
        ({"tood_af": [{"set": "val2017", "metrics": {"AP": 1}}]}, r"tood_af: 0: source: Field required"),
        (
            {"tood_af": [{"set": "val2017", "source": "x", "metrics": {"AP": 1}}] * 2},
            r"tood_af: two entries of 'x' for val2017; put their metrics into one",
        ),
    ],
)
def test_a_file_with_an_error(tmp_path, entries, message):
    path = tmp_path / "references.yaml"
    path.write_text(yaml.safe_dump({"references": entries}))
    with pytest.raises(ExperimentError, match=rf"references\.yaml: .*{message}"):
        load_references(RUNS, path)


def test_the_first_entry_of_a_set_counts():
    entries = [
        Reference(set="test-dev2017", source="a", metrics={"AP": 1}),
        Reference(set="val2017", source="b", metrics={"AP": 2}),
        Reference(set="val2017", source="c", metrics={"AP": 3}),
    ]
    assert reference_on("val2017", entries).source == "b"
    assert reference_on("val2017", entries[:1]) is None
