"""The workflow as its users call it: what it plans, what a study leaves behind, what a failure costs."""

import base64
import contextlib
import html
import io
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.figures import likeness, pixels, rendered, text_of_pdf
from helpers.tiny_study import CALL, COMPLEXITY, OPTIONS, TRAINED
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tood.analysis.figures.positive_curves import draw as draw_positives
from tood.ledger.records import write_record
from tood.report.figures import VIEWS
from tood.report.shown import SWEPT
from tood.report.tables import COLUMNS
from tood.runtime.locks import hold_study
from tood.study.declarations import load_runs, load_tables
from tood.study.pages import load_pages
from tood.study.paths import RunPaths
from tood.study.scales import load_scale

RUNS = load_runs()
TABLES = load_tables(runs=RUNS)
AP = {"AP", "AP50", "AP75", "APS", "APM", "APL"}
CHROMIUM, PDFLATEX = shutil.which("chromium"), shutil.which("pdflatex")
SIZES = ("Head params (M)", "Full params (M)", "Head FLOPs (G)", "Full FLOPs (G)")


def planned(output: str) -> Counter:
    """The jobs of a dry run with `-p`, which prints them: (rule,), or (rule, run, seed)."""
    parts = re.split(r"^(?:local)?rule (\w+):$", output, flags=re.MULTILINE)
    jobs = Counter()
    for rule, block in zip(parts[1::2], parts[2::2], strict=True):
        wildcards = re.search(r"wildcards: run=(\w+), seed=(\d+)$", block, re.MULTILINE)
        jobs[rule, *(wildcards.groups() if wildcards else ())] += 1
    return jobs


def table(workspace, name: str, study: str = "tiny") -> pd.DataFrame:
    return pd.read_csv(workspace.path / f"results/{study}/tables/{name}.csv")


# What is planned


@pytest.mark.parametrize("scale", ["smoke", "paper"])
def test_every_run_is_planned_once_and_planning_imports_nothing_heavy(workspace, poison, scale):
    assert workspace.run("python", "-c", "import torch", PYTHONPATH=str(poison)).returncode
    (poison / "imported").unlink()

    outcome = workspace.run("snakemake", "-n", "-p", "--config", f"scale={scale}", PYTHONPATH=str(poison))
    assert outcome.returncode == 0, outcome.stdout
    assert not (poison / "imported").exists()

    declared, seed = load_scale(scale), "0"
    once = ("check_data", "figure1", "views", "sweeps", "forest", "positives", "complexity", "tables")
    expected = [(rule,) for rule in (*once, "report", "all")]
    expected += [("generate_data",)] if declared.drawing else []
    of_paper = [run for run in RUNS.values() if run.in_paper]
    backbones = {run.weights for run in of_paper}
    expected += [("fetch_weights",)] * len(backbones) if declared.weights == "imagenet" else []
    analysed = {row.run for row in TABLES["table6"].rows}
    for run in of_paper:
        measure = "evaluate_and_analyse" if run.id in analysed else "evaluate"
        expected += [("train", run.id, seed), (measure, run.id, seed)]
    assert planned(outcome.stdout) == Counter(expected)
    assert re.findall(r"^total +(\d+)$", outcome.stdout, re.MULTILINE) == [str(len(expected))] * 2
    assert not (workspace.path / "results").exists()
    assert not (workspace.path / "work").exists()


# What is printed


def test_a_call_prints_a_line_for_each_run_and_where_things_are(study):
    lines = (study.path / "printed.txt").read_text().splitlines()
    assert len(lines) <= 25
    for run in TRAINED:
        (line,) = (line for line in lines if line.startswith(f"{run} seed 0 "))
        assert re.search(r" AP (\d+\.\d|n/a) +\d+:\d\d  [12]/2$", line)
    (end,) = (number for number, line in enumerate(lines) if line.startswith("tiny: done in "))
    assert "2 trained, 2 evaluated" in lines[end]
    assert lines[end + 1].split() == ["report", "results/tiny/report.html"]
    log = study.path / "work/tiny/logs/evaluate_tood_af_seed0.log"
    assert "loading annotations" in log.read_text()


@pytest.mark.parametrize("scale", ["smoke", "paper"])
def test_a_dry_run_fits_a_screen(workspace, scale):
    outcome = workspace.run("snakemake", "-n", "--config", f"scale={scale}")
    assert outcome.returncode == 0, outcome.stdout
    lines = outcome.stdout.splitlines()
    assert len(lines) <= 24
    assert re.search(r"^ *60  train ", outcome.stdout, re.MULTILINE)
    assert "60 pending" in outcome.stdout
    assert "60 trainings to do" in outcome.stdout
    assert ("GPU-hours" in outcome.stdout) == (scale == "paper")


# A study from its data to its report


def test_metrics(study):
    metrics = pd.read_csv(study.path / "results/tiny/metrics.csv")
    assert list(metrics.columns) == COLUMNS
    assert not metrics["stale"].any()
    assert set(metrics["study"]) == {"tiny"}
    assert not metrics.duplicated(["run", "seed", "metric"]).any()
    models = metrics[metrics["seed"].isna()].pivot_table(index="run", columns="metric", values="value")
    assert models.loc["tood_af", list(SIZES)].tolist() == [31.25, 32.25, 33.25, 34.25]
    measured = metrics[metrics["seed"].notna()]
    made_with = measured[["seed", "data_seed", "lr", "epochs"]].drop_duplicates().to_numpy().tolist()
    assert made_with == [[0, 0, 0.04, 6]]
    sizes = measured.dropna(subset="objects").pivot_table(index="run", columns="metric", values="objects")
    assert sizes.to_dict("index") == dict.fromkeys(TRAINED, objects_of(study))
    values = measured.pivot_table(index="run", columns="metric", values="value", dropna=False)
    assert set(values.index) == set(TRAINED)
    assert set(values.columns) >= AP | set(TABLES["table6"].metrics)
    assert (values[["AP", "AP50", "AP75"]].ge(0) & values[["AP", "AP50", "AP75"]].le(100)).all(axis=None)
    assert values["PCC (top-50)"].between(-1, 1).all()
    assert values["IoU (top-10)"].between(0, 1, inclusive="right").all()
    counts = values[[name for name in values if name.endswith(" boxes")]]
    assert (counts.ge(0) & (counts % 1 == 0)).all(axis=None)


def objects_of(study) -> dict[str, int]:
    """Objects by COCO's classes of size on the evaluated images, by pycocotools."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(study.path / "work/data/smoke/annotations/instances_val2017.json")
    images = json.loads((study.path / f"work/tiny/runs/{TRAINED[0]}/seed0/evaluated_images.json").read_text())
    ranges = {"APS": [0, 32**2], "APM": [32**2, 96**2], "APL": [96**2, 1e10]}
    return {
        name: len(truth.getAnnIds(imgIds=images, areaRng=areas, iscrowd=False))
        for name, areas in ranges.items()
    }


def test_evaluation_is_of_the_first_images(study):
    truth = json.loads((study.path / "work/data/smoke/annotations/instances_val2017.json").read_text())
    ids = [image["id"] for image in truth["images"]][:6]
    for run in TRAINED:
        found = study.path / f"work/tiny/runs/{run}/seed0/evaluated_images.json"
        assert json.loads(found.read_text()) == ids


def by_pycocotools(annotations: Path, folder: Path) -> dict[str, float]:
    """AP of the detections of a run, and how many of them are correct at IoU 0.5."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(annotations)
        evaluator = COCOeval(truth, truth.loadRes(str(folder / "detections.json")), "bbox")
        evaluator.params.imgIds = json.loads((folder / "evaluated_images.json").read_text())
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    area = evaluator.params.areaRng[0]
    images = [image for image in evaluator.evalImgs if image is not None and image["aRng"] == area]
    matched = np.concatenate([image["dtMatches"][0] > 0 for image in images])
    ignored = np.concatenate([image["dtIgnore"][0] > 0 for image in images])
    return {"AP": 100 * evaluator.stats[0], "#Correct boxes": float((matched & ~ignored).sum())}


def test_metrics_are_those_of_the_detections(study, tmp_path):
    """Three iterations teach too little to detect anything; scores are raised until there are detections."""
    workspace = study.copy(tmp_path / "copy")
    folder = workspace.path / "work/tiny/runs/tood_af/seed0"
    checkpoint = torch.load(folder / "model.pth", weights_only=True)
    checkpoint["state_dict"]["bbox_head.predictor.cls_conv.bias"] += 4
    torch.save(checkpoint, folder / "model.pth")
    outcome = workspace.run("snakemake", "results/tiny/metrics.csv", *CALL)
    assert outcome.returncode == 0, outcome.stdout

    detections, images = (
        json.loads((folder / name).read_text()) for name in ("detections.json", "evaluated_images.json")
    )
    assert {detection["image_id"] for detection in detections} == set(images)
    expected = by_pycocotools(workspace.path / "work/data/smoke/annotations/instances_val2017.json", folder)
    assert min(expected.values()) > 0
    for metrics, changed in ((workspace, True), (study, False)):
        frame = pd.read_csv(metrics.path / "results/tiny/metrics.csv").set_index(["run", "metric"])["value"]
        measured = {name: frame["tood_af", name] for name in expected}
        assert (measured == pytest.approx(expected)) == changed
    assert table(workspace, "table3").set_index("run").loc["tood_af", "AP"] == pytest.approx(
        expected["AP"], rel=1e-6
    )


@pytest.mark.parametrize("name", TABLES)
def test_tables(study, name):
    declared, frame = TABLES[name], table(study, name)
    columns = ("{}", "{}_paper") if declared.printed else ("{}",)
    metrics = [column.format(metric) for metric in declared.metrics for column in columns]
    published = [name for name in frame.columns if name.endswith("_reference")]
    assert published == (["AP_reference"] if declared.printed else [])
    origin = [*(["paper_set"] if declared.printed else []), *(["reference_source"] if published else [])]
    seeds = [name for name in frame.columns if name.endswith("_seeds")]
    found = [name for name in frame.columns if name not in [*published, *seeds]]
    reconstructed = ["reconstruction"] if any(RUNS[row.run].reconstruction for row in declared.rows) else []
    assert found == [*declared.columns, *metrics, *origin, *reconstructed, "run", "status"]
    assert list(frame["run"]) == [row.run for row in declared.rows]
    values = pd.read_csv(study.path / "results/tiny/metrics.csv")
    measured = values.set_index(["run", "metric"])["value"]
    trained = values.dropna(subset=["seed", "value"]).groupby(["run", "metric"]).size()
    for row, record in zip(declared.rows, frame.to_dict("records"), strict=True):
        assert {key: str(record[key]) for key in declared.columns} == row.key | row.details
        assert record["status"] == ("done" if row.run in TRAINED else "pending")
        for metric in declared.metrics:
            if declared.printed:
                paper = math.nan if row.paper[metric] is None else row.paper[metric]
                assert record[f"{metric}_paper"] == pytest.approx(paper, nan_ok=True)
            ours = measured.get((row.run, metric), math.nan)
            assert record[metric] == pytest.approx(ours, rel=1e-6, nan_ok=True)
            assert record.get(f"{metric}_seeds", 0) == trained.get((row.run, metric), 0)

    for suffix in ("md", "tex"):
        text = (study.path / f"results/tiny/tables/{name}.{suffix}").read_text()
        for note in ("random weights", "after 3 iterations", "first 6 validation images"):
            assert note in text
    assert r"\end{table}" in text


def test_figure1_shows_both_detectors_on_one_evaluated_image(study):
    figures, data = study.path / "results/tiny/figures", study.path / "work/data/smoke"
    page = pixels(figures / "figure1.png", width=300)
    cut = 9 * len(page) // 20  # the legend is below both rows
    rows = page[:cut], page[cut:]
    truth = json.loads((data / "annotations/instances_val2017.json").read_text())
    names = [image["file_name"] for image in truth["images"]][:12]  # half of them are evaluated
    # A panel is 85 pixels wide. Boxes and arrows hide a part of the image.
    maps = [[likeness(row, pixels(data / "val2017" / name), range(82, 89)) for name in names] for row in rows]
    scores = np.array([[found.max() for found in of_row] for of_row in maps])  # [rows, images]
    first, second = scores.argmax(axis=1)
    assert first == second < 6
    assert (np.sort(scores, axis=1)[:, -1] > 0.1 + np.sort(scores, axis=1)[:, -2]).all()
    places = [np.unravel_index(of_row[first].argmax(), of_row[first].shape) for of_row in maps]
    # One above the other; the legend is in the lower half.
    assert abs(int(places[0][1]) - int(places[1][1])) <= 2
    text = text_of_pdf(figures / "figure1.pdf").splitlines()
    assert [line for line in text if line in ("ATSS", "TOOD", "Result")] == [
        "ATSS",
        "Result",
        "TOOD",
        "Result",
    ]
    assert len([line for line in text if line.startswith(("Score (stride ", "IoU (stride "))]) == 4


def test_the_figure_of_positives_shows_the_records_of_the_trainings(study, tmp_path, monkeypatch):
    """Of the schemes of Table 2 this study trains ATSS. A line needs records of more epochs than it has."""
    workspace = study.copy(tmp_path / "copy")
    records = [
        {"epoch": epoch, "objects": 4, "positives": 2.0**epoch, "positive_iou": 0.2 * epoch}
        for epoch in (1, 2, 3)
    ]
    files = RunPaths(workspace.path / "work/tiny/runs/atss_af/seed0")
    files.losses.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    record = workspace.path / "results/tiny/runs/atss_af/seed0.json"
    monkeypatch.chdir(workspace.path)  # the manifest names the annotations from there
    write_record(files, workspace.path / "work/tiny/manifest.json", record)
    drawn = workspace.path / "results/tiny/figures/positives.png"
    drawn.unlink()
    outcome = workspace.run("snakemake", drawn.relative_to(workspace.path), *CALL)
    assert outcome.returncode == 0, outcome.stdout

    curves = pd.DataFrame(records).drop(columns="objects").assign(scheme="ATSS", seed=0)
    assert np.array_equal(pixels(drawn), rendered(draw_positives(curves), 200))
    shifted = curves.assign(positives=[2.0, 4.0, 7.9])
    assert not np.array_equal(pixels(drawn), rendered(draw_positives(shifted), 200))
    text = text_of_pdf(drawn.with_suffix(".pdf")).splitlines()
    assert {"ATSS", "positives", "per object", "predicted boxes"} <= set(text)


class TablesOfPage(HTMLParser):
    """Cells of the tables of a page, by table and row."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tables, self.inside = [], False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self.inside = True

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.tables[-1][-1][-1] += data


def tables_of_page(page: str) -> dict[str, list[list[str]]]:
    """The tables of a report by the ids of their headings."""
    sections = re.findall(r'<section aria-labelledby="([\w-]+)">(.*?)</section>', page, re.DOTALL)
    return {name: TablesOfPage(text).tables[0] for name, text in sections if "<table" in text}


def test_report_holds_what_was_asked_for_and_every_figure(study):
    page = (study.path / "results/tiny/report.html").read_text()
    titles = re.findall(r"<strong>([^<]+)\.</strong>", page)
    captions = (
        *("Claims of the paper", "Figure 1", "Figure 4", "Best anchors", "Score against IoU"),
        *("AP by IoU threshold", "Kinds of boxes", "Positives during training"),
    )
    assert sorted(titles) == sorted(captions)
    shown = tables_of_page(page)
    assert next(iter(shown)) == "claims"
    assert list(shown)[-1] == "runs"
    empty = dict(re.findall(r"<li>(.*): (none of .*|no value .*|no sweep .*)</li>", page))
    of_paper = {row.run for declared in TABLES.values() if declared.printed for row in declared.rows}
    for name, declared in TABLES.items():
        asked = [record for record in table(study, name).to_dict("records") if record["run"] in TRAINED]
        own = {row.run for row in declared.rows} - of_paper
        if own and not declared.printed and own.isdisjoint(TRAINED):  # it waits for them
            asked = []
        if name in SWEPT and len(asked) == 1:
            asked = []
        assert (name in shown) == bool(asked) == (declared.title not in empty)
        if not asked:
            continue
        header, *rows = shown[name]
        for row, record in zip(rows, asked, strict=True):
            assert str(record[declared.keys[0]]) in row[0]
            for metric, spec in declared.metrics.items():
                (column,) = (header.index(cell) for cell in header if cell in (metric, f"{metric} (val)"))
                if math.isfinite(record[metric]):
                    assert row[column] == format(record[metric], spec).replace("-", "−")
    for figure in ("claims", "figure1", "figure4", *VIEWS, "positives"):
        for end, place in ((".png", "src"), ("_dark.png", "srcset")):
            content = (study.path / f"results/tiny/figures/{figure}{end}").read_bytes()
            assert f'{place}="data:image/png;base64,{base64.b64encode(content).decode()}"' in page
        assert f'alt="{load_pages().figures[figure]}"' in page
    # First what came out, then pictures, then tables
    places = [
        page.index(part) for part in ('class="finding"', 'id="figure-claims"', 'id="claims"', 'id="runs"')
    ]
    assert places == sorted(places)
    for run in TRAINED:
        assert f'<tr id="run-{run}">' in page
        assert f'<a href="#run-{run}">' in page


# What a page says of itself once it is laid out
LOOK = """<script>addEventListener("load", () => {
  document.querySelectorAll("details").forEach(card => { card.open = true; });
  const links = [...document.links].map(link => link.getAttribute("href"));
  document.documentElement.dataset.found = JSON.stringify({
    overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    broken: [...document.images].filter(image => !image.naturalWidth).length,
    lost: links.filter(href => !href.startsWith("#") || !document.getElementById(href.slice(1))),
    unnamed: [...document.images].filter(image => !image.alt).length,
  })})</script>"""


@pytest.mark.skipif(not PDFLATEX, reason="pdflatex is not installed: the tables in LaTeX are not compiled")
def test_latex_compiles_every_table(study, tmp_path):
    files = sorted((study.path / "results/tiny/tables").glob("*.tex"))
    assert len(files) == len(TABLES) + 1
    inputs = "".join(rf"\input{{{file}}}\clearpage" + "\n" for file in files)
    preamble = r"\documentclass{article}\usepackage{booktabs}\usepackage[landscape]{geometry}"
    (tmp_path / "all.tex").write_text(rf"{preamble}\begin{{document}}{inputs}\end{{document}}")
    command = [PDFLATEX, "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    outcome = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace")
    assert outcome.returncode == 0, outcome.stdout[-2000:]
    assert "Missing character" not in outcome.stdout + (tmp_path / "all.log").read_text(errors="replace")


@pytest.mark.skipif(not CHROMIUM, reason="chromium is not installed: the report is looked at by no browser")
@pytest.mark.parametrize("width", [390, 768, 1280])
def test_a_browser_shows_the_whole_report(study, tmp_path, width):
    page = (study.path / "results/tiny/report.html").read_text()
    (tmp_path / "page.html").write_text(page.replace("</body>", f"{LOOK}</body>"))
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom")
    command = [CHROMIUM, *options, f"--window-size={width},900", (tmp_path / "page.html").as_uri()]
    outcome = subprocess.run(command, capture_output=True, text=True, timeout=120)
    (found,) = re.findall(r'<html[^>]* data-found="([^"]+)"', outcome.stdout)
    assert json.loads(html.unescape(found)) == {"overflow": 0, "broken": 0, "lost": [], "unnamed": 0}
    assert "CONSOLE" not in outcome.stderr


@pytest.mark.parametrize("run", TRAINED)
def test_training_leaves_safe_weights_and_says_what_they_are(study, run):
    folder = study.path / f"work/tiny/runs/{run}/seed0"
    checkpoint = torch.load(folder / "model.pth", weights_only=True)
    assert all(tensor.isfinite().all() for tensor in checkpoint["state_dict"].values())
    assert (checkpoint["meta"]["seed"], checkpoint["meta"]["settings"]["run"]["id"]) == (0, run)
    state = json.loads((folder / "state.json").read_text())
    assert (state["state"], state["iterations"]) == ("done", 3)
    last = json.loads((folder / "losses.jsonl").read_text().splitlines()[-1])
    assert last["iteration"] == 3
    assert math.isfinite(last["loss"])


def test_a_second_call_has_nothing_to_do(study):
    before = study.files("results")
    outcome = study.run("snakemake", *CALL)
    assert (outcome.returncode, "Nothing to be done" in outcome.stdout) == (0, True), outcome.stdout
    assert study.files("results") == before


def test_another_seed_trains_that_seed_only(study):
    outcome = study.run("snakemake", "-n", "-p", *CALL, "seeds=0,1")
    assert outcome.returncode == 0, outcome.stdout
    per_seed = [(rule, run, "1") for run in TRAINED for rule in ("train", "evaluate_and_analyse")]
    again = ("views", "forest", "positives", "tables", "report", "all")
    assert planned(outcome.stdout) == Counter([*per_seed, *((rule,) for rule in again)])


def test_other_iterations_train_again(study):
    outcome = study.run("snakemake", "-n", "-p", *OPTIONS, "iterations=4")
    assert outcome.returncode == 0, outcome.stdout
    jobs = planned(outcome.stdout)
    assert {job for job in jobs if job[0] == "train"} == {("train", run, "0") for run in TRAINED}
    assert not {("generate_data",), ("check_data",)} & set(jobs)


def test_a_changed_byte_in_the_annotations_is_checked_and_trained_on_again(study, tmp_path):
    workspace = study.copy(tmp_path / "copy")
    with (workspace.path / "work/data/smoke/annotations/instances_train2017.json").open("a") as file:
        file.write(" ")
    outcome = workspace.run("snakemake", "-n", "-p", *CALL)
    assert outcome.returncode == 0, outcome.stdout
    jobs = planned(outcome.stdout)
    assert {("check_data",), *(("train", run, "0") for run in TRAINED)} <= set(jobs)
    assert ("generate_data",) not in jobs


def test_each_result_carries_what_made_it(study):
    manifest = json.loads((study.path / "work/tiny/manifest.json").read_text())
    for run in TRAINED:
        folder = study.path / f"work/tiny/runs/{run}/seed0"
        made = json.loads((folder / "provenance.json").read_text())
        assert (made["run"], made["seed"], made["hardware"]["gpus"]) == (run, 0, 0)
        assert made["data"]["train"]["sha256"] == manifest["splits"]["train"]["sha256"]
        assert made["config"]["model"]["bbox_head"]["num_classes"] == len(manifest["categories"])
        assert made["finished"] > made["started"]
        for name in ("ap.json", "alignment.json"):
            assert json.loads((folder / name).read_text())["digests"].items() >= made["digests"].items()
    declared = json.loads((study.path / "results/tiny/study.json").read_text())
    assert declared == {
        "scale": "smoke",
        "name": "tiny",
        "runs": [*TRAINED],
        "iterations": 3,
        "val_images": 6,
    }
    shown = study.run("tood", "show", "tood_af")
    assert shown.returncode == 0, shown.stdout
    assert re.search(r"^0 +done ", shown.stdout, re.MULTILINE)
    progress = study.run("tood", "progress").stdout.splitlines()
    assert progress[-1].startswith("tiny: 2 done;")


def test_a_failure_costs_only_what_failed(study, tmp_path):
    """A damaged checkpoint fails its run's evaluation; the other run keeps its files and its numbers."""
    workspace, damaged = study.copy(tmp_path / "copy"), "work/tiny/runs/tood_af/seed0/model.pth"
    others = workspace.files("work/tiny/runs/atss_af")
    (workspace.path / damaged).write_bytes(b"no checkpoint")

    outcome = workspace.run("snakemake", *CALL)
    assert outcome.returncode != 0
    assert f"evaluate: {damaged}: cannot be loaded" in outcome.stdout
    assert "Traceback" not in outcome.stdout

    assert workspace.files("work/tiny/runs/atss_af") == others
    for name in ("table3", "table6"):
        before, after = (table(w, name).set_index("run") for w in (study, workspace))
        pd.testing.assert_series_equal(after.loc["atss_af"], before.loc["atss_af"], check_dtype=False)
        assert after.loc["tood_af", "status"] != "done"
        assert math.isnan(after.loc["tood_af", "AP"])
    page = (workspace.path / "results/tiny/report.html").read_text()
    assert "figure1 is not shown" in page
    assert page.count("<img") == 1  # positives, which no evaluation takes part in
    assert {"table3", "table6", "runs"} <= set(tables_of_page(page))
    assert "<li>Claims: no value yet</li>" in page  # each needs both runs


def test_another_device_trains_nothing_again(study):
    """Nor anything else that decides how a training is computed, not what comes out."""
    outcome = study.run("snakemake", "-n", "-p", *CALL, "device=cpu")
    assert outcome.returncode == 0, outcome.stdout
    assert not {job for job in planned(outcome.stdout) if job[0] == "train"}


@pytest.mark.slow
def test_the_same_command_after_snakemake_was_killed(workspace):
    """The orphaned trainer is not doubled: the second call waits for it and takes its result over."""
    complexity = workspace.path / "results/paper/complexity.csv"
    complexity.parent.mkdir(parents=True)
    complexity.write_text(COMPLEXITY)
    call = ("--cores", "1", "--config", "runs=tood_af", "batch_size=1", "name=tiny", "val_images=6")
    folder = workspace.path / "work/tiny/runs/tood_af/seed0"
    program = Path(sys.executable).with_name("snakemake")

    def start(name: str) -> tuple[subprocess.Popen, Path]:
        path = workspace.path / name
        with path.open("w") as log:
            return subprocess.Popen([program, *call], cwd=workspace.path, stdout=log, stderr=log), path

    def wait_until(happened, process: subprocess.Popen, log: Path) -> None:
        deadline = time.monotonic() + 240
        while not happened():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)

    first, log = start("first.log")
    wait_until(lambda: list(folder.glob("checkpoints/*.pth")), first, log)
    trainer = json.loads((folder / "state.json").read_text())["pid"]
    first.kill()
    first.wait()
    os.kill(trainer, signal.SIGSTOP)  # it lives, and has time until the second has seen it

    second, log = start("second.log")
    of_job = workspace.path / "work/tiny/logs/train_tood_af_seed0.log"

    def said() -> str:
        """In the job's log, which Snakemake deletes before it starts the job again."""
        with contextlib.suppress(FileNotFoundError):
            return of_job.read_text()
        return ""

    wait_until(lambda: f"process {trainer} on" in said(), second, log)
    os.kill(trainer, signal.SIGCONT)
    assert second.wait(240) == 0, log.read_text()
    assert "already trained" in of_job.read_text()
    state = json.loads((folder / "state.json").read_text())
    assert (state["state"], state["pid"], state["attempt"]) == ("done", trainer, 1)
    assert table(workspace, "table3").set_index("run").loc["tood_af", "status"] == "done"
    third = workspace.run("snakemake", *call)
    assert "Nothing to be done" in third.stdout


def test_two_calls_on_one_study(workspace):
    """The second is refused and names the first; once that has ended it works."""
    lock = hold_study(workspace.path / "work/tiny")
    call = ("--cores", "1", "--config", "runs=tood_af", "iterations=1", "name=tiny")
    refused = workspace.run("snakemake", "work/tiny/manifest.json", *call)
    assert refused.returncode == 1
    assert f"process {os.getpid()} on" in refused.stdout
    assert "works on this study" in refused.stdout
    assert not (workspace.path / "work/tiny/manifest.json").exists()
    lock.close()
    assert workspace.run("snakemake", "work/tiny/manifest.json", *call).returncode == 0
