"""The page of a study: rows that were asked for, notes once, what came out first, runs that sort."""

import math
import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from markupsafe import Markup
from PIL import Image

from tood.ledger.status import Status
from tood.report.claims_table import write_claims
from tood.report.evidence import Evidence, judge
from tood.report.outcome import effect_of_the_method, setup, verdicts
from tood.report.page import write_report
from tood.report.run_table import run_table
from tood.report.sections import (
    Section,
    claims_section,
    of_images,
    said_more_than_once,
    table_section,
    without,
)
from tood.report.tables import build, write
from tood.runtime.failures import State
from tood.study.claims import load_claims
from tood.study.declarations import load_runs, load_tables
from tood.study.paths import REPOSITORY, StudyPaths
from tood.study.plan import Plan

RUNS = load_runs()
TABLES = load_tables(runs=RUNS)
CLAIMS = load_claims(RUNS, TABLES)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def metrics(**values: float) -> pd.DataFrame:
    """AP of runs over two seeds."""
    rows = [
        (run, seed, "AP", value + seed / 10, None, False) for run, value in values.items() for seed in (0, 1)
    ]
    return pd.DataFrame(rows, columns=["run", "seed", "metric", "value", "objects", "stale"])


def written(name: str, folder: Path, frame: pd.DataFrame, notes=()) -> Path:
    write(TABLES[name], build(TABLES[name], frame, {}, RUNS), folder, notes)
    return folder / f"{name}.md"


def test_a_table_has_the_rows_that_were_asked_for(tmp_path):
    path = written("table3", tmp_path, metrics(tood_af=42.0, atss_af=39.0, tood_ab=41.0))
    section = table_section(path, TABLES["table3"], {"tood_af": ["done"], "atss_af": ["done"]})
    assert [row.run for row in section.rows] == ["atss_af", "tood_af"]
    assert section.left_out == 2
    assert [list(map(str, row.label)) for row in section.rows] == [
        ["Anchor-free", "ATSS"],
        ["Anchor-free", "TOOD"],
    ]
    assert list(map(str, section.label)) == ["Type", "Method"]
    titles = [str(cell.content) for cell in section.header]
    assert titles[:3] == ["Seeds", "AP", "paper"]
    first, second = section.rows[1].cells[1:3]
    assert (str(first.content), first.kind, str(second.content), second.kind) == (
        *("42.0 ± 0.1", "number"),
        *("42.5", "other"),
    )


def test_keys_with_short_names_stand_on_one_line(tmp_path):
    path = written("table4", tmp_path, metrics(tood_af=42.0, tood_alpha10_beta8=41.0))
    states = {"tood_af": ["done"], "tood_alpha10_beta8": ["done"]}
    section = table_section(path, TABLES["table4"], states)
    assert (section.label, section.rows[0].label) == (["α · β"], ["1.0 · 6"])


@pytest.mark.parametrize(("name", "setting"), [("table4", "α = 1.0, β = 6"), ("table_m", "m = 13")])
@pytest.mark.parametrize("others", [{}, {"tood_m5": ["pending"], "tood_alpha10_beta8": ["pending"]}])
def test_one_setting_is_no_sweep(tmp_path, name, setting, others):
    path = written(name, tmp_path, metrics(tood_af=42.0))
    section = table_section(path, TABLES[name], {"tood_af": ["done"]} | others)
    assert (section.empty, list(section.rows)) == (f"no sweep yet, as only {setting} has a value", [])


def test_sizes_are_shown_of_models_that_are_not_trained_too(tmp_path):
    sizes = [(row.run, "Full params (M)", 30.0 + place) for place, row in enumerate(TABLES["table1"].rows)]
    sizes = pd.DataFrame(sizes, columns=["run", "metric", "value"]).assign(seed=math.nan, stale=False)
    path = written("table1", tmp_path, pd.concat([metrics(atss_af=39.0), sizes]))
    section = table_section(path, TABLES["table1"], {"atss_af": ["done", "done"]})
    assert (len(section.rows), section.left_out) == (len(TABLES["table1"].rows), 0)
    titles = [str(cell.content) for cell in section.header]
    first, trained = section.rows[0], next(row for row in section.rows if row.run)
    assert trained.run == "atss_af"
    assert first.run == ""  # no training that it could lead to
    values = dict(zip(titles, (str(cell.content) for cell in first.cells), strict=True))
    assert (values["Full params (M)"], values["AP"]) == ("30.00", "pending")
    nothing = table_section(path, TABLES["table1"], {"tood_af": ["done"]})
    assert nothing.empty == "none of its runs is in this study"


def test_words_come_after_numbers_and_columns_of_dashes_do_not_come(tmp_path):
    frame = metrics(sapd_r101=40.0)
    path = written("table5", tmp_path, frame)
    section = table_section(path, TABLES["table5"], {"sapd_r101": ["done"]})
    titles = [str(cell.content) for cell in section.header]
    assert titles[:2] == ["Seeds", "AP (val)"]
    assert titles[-3:] == ["Epochs", "Sizes", "DCN"]
    assert "reference (val)" not in titles  # SAPD has none
    assert "<sup>" in str(section.rows[0].label[0])
    assert [str(text)[:20] for text in section.footnotes] == ["<p><sup>1</sup> SAPD"]  # of 21 in the file
    row = section.rows[0]
    assert (
        row.linked == f'<a href="#run-sapd_r101">{row.label[0].removesuffix("<sup>1</sup>")}</a><sup>1</sup>'
    )


@pytest.mark.parametrize(
    ("states", "said"),
    [
        ({}, "none of its runs is in this study"),
        ({"tood_af": ["pending", "pending"], "atss_af": ["failed"]}, "no value yet (2 pending, 1 failed)"),
    ],
)
def test_a_table_without_values_is_one_line(tmp_path, states, said):
    path = written("table3", tmp_path, metrics())
    section = table_section(path, TABLES["table3"], states)
    assert (section.empty, list(section.rows)) == (said, [])


def test_a_table_of_this_project_waits_for_runs_of_its_own(tmp_path):
    of_paper = {row.run for table in TABLES.values() if table.printed for row in table.rows}
    states = {run: ["done"] for run in ("atss_ab", "tood_af", "gfl_r50", "tal")}
    path = written("one_backbone", tmp_path, metrics(atss_ab=39.0, tood_af=42.0))
    section = table_section(path, TABLES["one_backbone"], states, of_paper)
    assert section.empty == "no value yet of the runs that are in this table alone"
    path = written("one_backbone", tmp_path, metrics(atss_ab=39.0, gfl_r50=40.0))
    assert len(table_section(path, TABLES["one_backbone"], states, of_paper).rows) == 3
    # All of its runs are the paper's.
    frame = pd.DataFrame([("tal", 0, "Positives (last)", 9.0, None, False)], columns=metrics().columns)
    path = written("positives", tmp_path, frame)
    assert len(table_section(path, TABLES["positives"], states, of_paper).rows) == 1


def test_what_the_images_are_is_said_once():
    of_columns = ["Images: measured, a; paper, b.", "Images: measured, a; paper, b; reference, c."]
    other = "Images: measured, a; paper, d."
    sections = [Section("x", "X", remarks=[text, "Else."]) for text in (*of_columns, other)]
    said, covered = of_images(sections)
    assert said == [of_columns[1]]
    rest = without(sections, covered)
    assert [section.remarks for section in rest] == [["Else."], ["Else."], [other, "Else."]]
    assert of_images(sections[:1]) == ([], [])


def test_long_titles_are_short_in_the_contents():
    titles = {"table_m": "Sweep of m", "one_backbone": "Methods of Table 5 alone, under one recipe"}
    assert [Section(*names).short for names in titles.items()] == ["Sweep of m", "One backbone"]


def titles_of(section: Section) -> list[str]:
    return [str(cell.content) for cell in section.header]


def test_claims_show_first_what_a_narrow_page_has_room_for(tmp_path):
    frame = metrics(tood_af=42.0, atss_af=39.0)
    write_claims(CLAIMS, Evidence(metrics=frame), TABLES, tmp_path, [])
    section = claims_section(tmp_path / "claims.md", CLAIMS, ["tood_af", "atss_af"])
    assert titles_of(section)[:4] == ["ours", "Verdict", "paper", "Metric"]
    assert section.left_out == len(CLAIMS) - len(section.rows) > 0
    row = next(row for row in section.rows if row.label[0] == "C9: TOOD is better than ATSS, anchor-free")
    assert str(row.cells[0].content) == '+3.0 <span class="apart">(+3.0 to +3.0)</span>'
    assert "Robustness" not in titles_of(section)
    assert row.below == Markup("Robustness: Welch: same direction")
    assert isinstance(row.below, Markup)  # or the page would show < as &lt;
    for runs, said in ((["tood_af"], "no claim of the paper rests on"), (["tal", "paa_iou"], "no claim")):
        assert claims_section(tmp_path / "claims.md", CLAIMS, runs).empty.startswith(said)
    assert claims_section(tmp_path / "claims.md", CLAIMS, ["fovea", "fovea_thead"]).empty == "no value yet"


def test_the_verdicts_are_counted_in_a_sentence():
    frame = metrics(tood_af=42.0, atss_af=39.0, tal=38.0)
    judged = judge(CLAIMS, Evidence(metrics=frame), TABLES)
    rest = len(CLAIMS) - 2
    assert verdicts(judged, comparable=False) == [
        "2 claims on trainings (2 seeds): 1 same direction, 1 opposite. Significant after Holm's correction: "
        f"2. {rest} other claims have no verdict, as not all of the runs are trained."
    ]
    nothing = judge(CLAIMS, Evidence(), TABLES)
    assert verdicts(nothing, comparable=False) == ["No claim of the paper has a verdict yet."]
    assert effect_of_the_method(nothing) == ""
    assert effect_of_the_method(judged) == (
        "TOOD − ATSS: +3.0 AP (95% interval +3.0 to +3.0, 2 seeds). TOOD is the paper's object detector, "
        'ATSS its baseline. Verdict on the claim C9, "TOOD is better than ATSS, anchor-free": same direction.'
    )
    one = judge(CLAIMS, Evidence(metrics=frame[frame["seed"] == 0]), TABLES)
    assert effect_of_the_method(one).startswith(
        "TOOD − ATSS: +3.0 AP, with one seed and so without an interval. "
    )


def test_controls_of_this_project_are_counted_among_the_claims():
    frame = metrics(tood_af=42.0, atss_af=39.0, atss_af_thead=38.0, parallel_atss=37.0)
    judged = judge(CLAIMS, Evidence(metrics=frame), TABLES)
    (said,) = verdicts(judged, comparable=False)
    known = judged[(judged["seeds"] > 0) & judged["paper"].isna()]
    assert set(known["id"]) == {"head_alone"}
    assert f" (2 seeds), {len(known)} of them with a control that the paper lacks: " in said


def test_sizes_of_models_are_counted_apart_from_trainings():
    rows = [("atss_af", math.nan, 32.07), ("atss_af_thead", math.nan, 31.98)]
    sizes = pd.DataFrame(rows, columns=["run", "seed", "value"]).assign(metric="Full params (M)", stale=False)
    frame = pd.concat([metrics(tood_af=42.0, atss_af=39.0), sizes])
    trained, of_models = verdicts(judge(CLAIMS, Evidence(metrics=frame), TABLES), comparable=False)
    assert trained.startswith("1 claim on trainings (2 seeds): 1 same direction. Significant")
    assert of_models == "Claims on sizes of models, which need no training: 1 same direction."


def test_what_several_tables_say_is_found_once(tmp_path):
    frame = metrics(tood_af=42.0)
    states = {"tood_af": ["done"]}
    several = [
        table_section(written(name, tmp_path, frame, ["Of all.", f"Of {name}."]), TABLES[name], states)
        for name in ("table3", "table6")
    ]
    assert "Of all." in said_more_than_once(several)
    assert "Of table3." not in said_more_than_once(several)


def status(run: str, seed: int, **changes: object) -> Status:
    return Status(RUNS[run], seed, Path("x"), State.DONE, **changes)


def test_the_table_of_runs_has_a_row_per_training_and_no_empty_column():
    made = {"hardware": {"cpu": "A CPU"}, "digests": {"code": "abc"}, "attempts": 1}
    report = {"seconds": 61.4, "images_per_second": 12.34}
    statuses = [
        status("tood_af", 0, provenance=made, report=report),
        status("tood_af", 1, provenance=made),
        status("atss_af", 0, provenance=made | {"attempts": 2}),
    ]
    columns, rows = run_table(statuses)
    assert columns == ["Seed", "State", "Time", "Images/s", "Backbone", "Attempts", "Code"]
    assert [row.id for row in rows] == ["run-tood_af", "run-tood_af-1", "run-atss_af"]
    first = dict(zip(columns, rows[0].cells, strict=True))
    assert (first["Time"].text, first["Time"].order) == ("0:01:01", 61.4)
    assert first["Images/s"].text == "12.3"
    assert rows[1].cells[columns.index("Time")] == ("", "", None)


@pytest.fixture
def page(tmp_path, monkeypatch) -> str:
    """Of a study of two runs, of which nothing is trained but one table has values."""
    monkeypatch.chdir(tmp_path)
    paths = StudyPaths("x")
    frame = metrics(tood_af=42.0, atss_af=39.0)
    plan = Plan({"name": "x", "runs": "tood_af,atss_af"})
    for name in TABLES:
        write(TABLES[name], build(TABLES[name], frame, {}, RUNS), paths.tables, plan.notes())
    write_claims(CLAIMS, Evidence(metrics=frame), TABLES, paths.tables, plan.notes())
    wide = paths.figures / "figure4.png"
    wide.parent.mkdir()
    Image.new("RGB", (2400, 800)).save(wide)
    wide.with_suffix(".md").write_text("**Figure 4.** Counts.\n\n| a | b |\n| :--- | ---: |\n| c | 1 |\n")
    write_report(plan, [wide], {"figure1": "no weights"})
    return paths.report.read_text()


def test_notes_are_said_once_and_empty_tables_in_one_line(page):
    *notes, seeds = Plan({"name": "x", "runs": "tood_af,atss_af"}).notes()
    assert seeds not in page  # the head has them
    assert "<dt>Seeds</dt><dd>0</dd>" in page
    for note in notes:
        assert page.count(note.removeprefix("Scale smoke: ").partition(" (")[0]) == 1
    empty = re.findall(r"<li>(Table \d|Sweep of m): (.*)</li>", page)
    assert ("Table 5", "none of its runs is in this study") in empty
    assert '<h2 id="table5">' not in page
    assert page.index(" on trainings (") < page.index('<h2 id="claims">') < page.index('<h2 id="runs">')
    assert "figure1 is not shown: no weights." in page


# Sorts by AP both ways and by the run, and writes down the order of the rows.
SORTING = """<script>addEventListener("load", () => {
  const rows = () => [...document.querySelectorAll(".sortable tbody tr")].map(row => row.id).join();
  const press = title => [...document.querySelectorAll(".sortable th button")]
    .find(button => button.textContent === title).click();
  const found = [];
  for (const title of ["Run", "Run", "Seed"]) { press(title); found.push(rows()); }
  document.documentElement.dataset.found = found.join(" ");
})</script>"""


in_browser = pytest.mark.skipif(not CHROMIUM, reason="chromium is not installed: no browser opens the page")


def opened(path: Path) -> str:
    """What a page writes into `data-found` of its root."""
    options = "--headless --no-sandbox --disable-gpu --hide-scrollbars --virtual-time-budget=5000 --dump-dom"
    command = [CHROMIUM, *options.split(), path.as_uri()]
    outcome = subprocess.run(command, capture_output=True, text=True, timeout=120)
    (found,) = re.findall(r'<html[^>]* data-found="([^"]+)"', outcome.stdout)
    return found


@in_browser
def test_a_click_on_a_title_sorts_and_another_turns_it_round(page, tmp_path):
    (tmp_path / "page.html").write_text(page.replace("</body>", f"{SORTING}</body>"))
    first, second, third = (order.split(",") for order in opened(tmp_path / "page.html").split())
    assert first == ["run-atss_af", "run-tood_af"]
    assert second == ["run-tood_af", "run-atss_af"]
    assert third == second  # of equal seeds, the order stays


# Tells the page around it where things are, in pixels.
MEASURING = """<script>addEventListener("load", () => setTimeout(() => {
  const right = element => element.getBoundingClientRect().right;
  const verdict = [...document.querySelectorAll("th")].find(title => title.textContent === "Verdict");
  const figure = document.querySelector("#figure-figure4 img");
  const text = [right(verdict), right(verdict.closest(".frame")), figure.getBoundingClientRect().width,
    document.documentElement.scrollWidth];
  parent.postMessage(text.map(Math.round).join(" "), "*");
}, 200))</script>"""
AROUND = """<!doctype html><html>
<iframe src="page.html" style="width: 390px; height: 800px; border: 0"></iframe>
<script>addEventListener("message", event => document.documentElement.dataset.found = event.data)</script>"""


@in_browser
def test_on_a_telephone_the_verdicts_are_whole_and_wide_figures_scroll(page, tmp_path):
    (tmp_path / "page.html").write_text(page.replace("</body>", f"{MEASURING}</body>"))
    (tmp_path / "around.html").write_text(AROUND)
    verdict, frame, figure, whole = map(int, opened(tmp_path / "around.html").split())
    assert verdict <= frame - 16  # where the shadow begins
    assert figure == 900  # three quarters of the 1,200 pixels that it has
    assert whole == 390  # nothing else is wider than the page


# Writes down how wide the table of claims is in its frame, and the highest of its rows.
OF_CLAIMS = """<script>addEventListener("load", () => setTimeout(() => {
  const table = document.getElementById("claims").parentElement.querySelector("table");
  const heights = [...table.tBodies[0].rows].map(row => row.offsetHeight);
  const found = [table.parentElement.clientWidth, table.offsetWidth, Math.max(...heights)];
  const below = [...table.querySelectorAll(".below div")].map(line => line.getBoundingClientRect().right);
  parent.postMessage([...found, Math.ceil(Math.max(...below))].join(" "), "*");
}, 200))</script>"""


@in_browser
@pytest.mark.parametrize(("width", "highest", "whole"), [(1300, 100, True), (390, 320, False)])
def test_the_claims_of_mini_can_be_read(tmp_path, monkeypatch, width, highest, whole):
    """On a wide page no column is cut; on a telephone the line below a row is seen without scrolling."""
    monkeypatch.chdir(tmp_path)
    committed = tmp_path / "results/mini/tables"
    shutil.copytree(REPOSITORY / committed.relative_to(tmp_path), committed)
    write_report(Plan({"scale": "mini"}), [], {})
    text = StudyPaths("mini").report.read_text()
    (tmp_path / "page.html").write_text(text.replace("</body>", f"{OF_CLAIMS}</body>"))
    (tmp_path / "around.html").write_text(AROUND.replace("390px", f"{width}px"))
    frame, table, height, right = map(int, opened(tmp_path / "around.html").split())
    assert (table <= frame) == whole
    assert height <= highest
    assert right <= width - 16


def test_a_table_in_a_caption_scrolls_by_itself(page):
    caption = re.search(r"<figcaption>(.*?)</figcaption>", page, re.DOTALL)[1]
    assert re.search(
        r'</p>\s*<div class="frame"><div class="scroll" [^>]*><table>.*</table></div></div>\s*$',
        caption,
        re.DOTALL,
    )


def test_the_head_says_what_the_study_is_made_of():
    made = {
        "hardware": {"cpu": "A CPU"},
        "settings": {"run": {"epochs": 12}},
        "data": {"train": {"images": 1200}, "val": {"images": 512}},
        "finished": 86400.0,
    }
    statuses = [status("tood_af", 1, provenance=made), status("tood_af", 0, provenance=made)]
    assert setup(Plan({}), statuses) == {
        "Images": "1,200 to train, 512 to validate, generated, 64 × 64 pixels, 8 classes",
        "Epochs": "12",
        "Seeds": "0, 1",
        "Initial weights": "random, not ImageNet's",
        "Trainings": "2, the last on 1970-01-02",
        "Hardware": "A CPU",
    }
    assert set(setup(Plan({}), [])) == {"Images", "Initial weights", "Trainings"}


def test_a_smaller_backbone_is_not_called_by_the_papers_name():
    small = {"settings": {"model": {"backbone": {"depth": 18}}}}
    columns, (narrow, whole) = run_table([status("tood_af", 0, provenance=small), status("tood_af", 1)])
    place = columns.index("Backbone")
    assert (narrow.cells[place].text, whole.cells[place].text) == (
        "small, in place of ResNet-50",
        "ResNet-50",
    )
