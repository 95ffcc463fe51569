"""Scores of COCO's server: read from what pycocotools prints, kept in a checked file, shown in Table 5."""

import contextlib
import io

import numpy as np
import pandas as pd
import pytest
import yaml
from pycocotools.cocoeval import COCOeval

from tood.ledger.server_scores import NAMES, ServerScores, entry, load_scores, parse_summary
from tood.report.tables import build, to_latex, to_markdown
from tood.study.declarations import ExperimentError, load_runs, load_tables

RUNS = load_runs()
TABLE = load_tables(runs=RUNS)["table5"]
NOTHING = pd.DataFrame(columns=["run", "seed", "metric", "value"])
FIGURES = dict(zip(NAMES, (46.7, 64.6, 50.7, 28.9, 49.6, 57, 36, 60.1, 64.2, 45.3, 67, 79.9), strict=True))


def summary(figures: dict[str, float] | None = None) -> str:
    """pycocotools' own summary of precision and recall arrays that hold these figures, in percent.

    Without figures, of arrays without any entry, as those of images without annotations.
    """
    evaluation = COCOeval(iouType="bbox")
    parameters = evaluation.params
    shape = (len(parameters.iouThrs), 101, 1, len(parameters.areaRng), len(parameters.maxDets))
    precision, recall = -np.ones(shape), -np.ones((shape[0], *shape[2:]))
    if figures:
        # Ten thresholds: the first is AP50's, the sixth AP75's, and the others make up for the mean.
        rest = (10 * figures["AP"] - figures["AP50"] - figures["AP75"]) / 8
        precision[:, :, :, 0, 2] = rest / 100
        precision[0, :, :, 0, 2] = figures["AP50"] / 100
        precision[5, :, :, 0, 2] = figures["AP75"] / 100
        for area, letter in enumerate("SML", 1):
            precision[:, :, :, area, 2] = figures[f"AP{letter}"] / 100
            recall[:, :, area, 2] = figures[f"AR{letter}"] / 100
        for limit, number in enumerate((1, 10, 100)):
            recall[:, :, 0, limit] = figures[f"AR{number}"] / 100
    evaluation.eval = {"precision": precision, "recall": recall}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        evaluation.summarize()
    return printed.getvalue()


def test_pycocotools_summary_is_read():
    assert parse_summary(f"Running per image evaluation...\nDONE (t=1.00s).\n{summary(FIGURES)}") == FIGURES


def test_of_a_servers_text_the_overall_performance_counts():
    cat = {name: value / 2 for name, value in FIGURES.items()}
    text = f"person\n{summary(cat)}\nbicycle\n{summary(cat)}\noverall performance\n{summary(FIGURES)}Done\n"
    assert parse_summary(text) == FIGURES


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"has 0 lines of pycocotools' summary and no 'overall performance'"),
        (summary(FIGURES).rsplit("\n", 2)[0], r"has 11 lines"),
        (summary(FIGURES) * 2, r"has 24 lines"),
        (f"{summary(FIGURES)}overall performance\n", r"has 0 lines .* after 'overall performance'"),
        (summary(), r"-1 is what pycocotools prints where there are no annotations.*that is no result"),
    ],
)
def test_a_text_that_is_no_result(text, message):
    with pytest.raises(ExperimentError, match=message):
        parse_summary(text)


def test_what_is_printed_can_be_pasted(tmp_path):
    lines = entry(summary(FIGURES), "tood_r101", "paper", 0, "a server", RUNS)
    path = tmp_path / "server_scores.yaml"
    path.write_text(f"scores:\n{lines}\n")
    (found,) = load_scores("paper", RUNS, path).values()
    assert (found.run, found.seed, found.source, found.metrics) == ("tood_r101", 0, "a server", FIGURES)
    assert load_scores("smoke", RUNS, path) == {}  # of other models
    with pytest.raises(ExperimentError, match="did you mean tood_r101"):
        entry(summary(FIGURES), "tood_r11", "paper", 0, "a server", RUNS)
    with pytest.raises(ExperimentError, match=r"^entry: seed: Input should be greater than or equal to 0"):
        entry(summary(FIGURES), "tood_r101", "paper", -1, "a server", RUNS)
    with pytest.raises(ExperimentError, match=r"^entry: all twelve are at most 1"):
        entry(summary(dict.fromkeys(FIGURES, 0.4)), "tood_r101", "paper", 0, "a server", RUNS)


def test_nothing_is_claimed_so_far():
    assert load_scores("paper", RUNS) == {}


GOOD = {"run": "tood_r101", "study": "paper", "seed": 0, "source": "x", "metrics": FIGURES}


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([{**GOOD, "run": "tood_r11"}], r"unknown run 'tood_r11'"),
        (
            [{**GOOD, "metrics": {"AP": 46.7}}],
            r"tood_r101: missing or unknown metrics \['AP50', .*exactly AP, AP50",
        ),
        ([{**GOOD, "metrics": {**FIGURES, "APS": -1}}], r"tood_r101: -1 is what pycocotools prints"),
        ([{**GOOD, "metrics": {**FIGURES, "APS": 289}}], r"APS is 289.0; write percent, at most 100"),
        ([{**GOOD, "metrics": {**FIGURES, "APS": float("nan")}}], r"APS: Input should be a finite number"),
        (
            [{**GOOD, "metrics": {name: value / 100 for name, value in FIGURES.items()}}],
            r"all twelve are at most 1; write percent, such as 46\.7 for 0\.467",
        ),
        ([{**GOOD, "sede": 1}], r"tood_r101: sede: unknown key"),
        ([GOOD, GOOD], r"tood_r101: two entries of study 'paper'; keep one"),
    ],
)
def test_a_file_with_an_error(tmp_path, entries, message):
    path = tmp_path / "server_scores.yaml"
    path.write_text(yaml.safe_dump({"scores": entries}))
    with pytest.raises(ExperimentError, match=rf"server_scores\.yaml: .*{message}"):
        load_scores("paper", RUNS, path)


def test_table_5_has_them_beside_the_papers_values():
    scores = {"tood_r101": ServerScores(**GOOD)}
    frame = build(TABLE, NOTHING, {}, RUNS, (), {}, scores)
    found = frame.set_index("run")
    assert found.loc["tood_r101", ["AP_test_dev", "AP_paper"]].to_list() == [46.7, 46.7]
    assert found["APL_test_dev"].count() == 1
    assert found.loc["tood_r101", "status"] == "pending"  # nothing was measured here
    lines = to_markdown(TABLE, frame).splitlines()
    assert "| AP (val) | AP (test-dev) | paper (test-dev) |" in lines[2]
    ours = next(line for line in lines if "TOOD (ours)" in line)
    assert "| pending | 46.7 | 46.7 | pending | 64.6 | 64.6 |" in ours
    assert "| pending | pending | 39.1 |" in lines[4]  # RetinaNet has no score yet
    assert "test-dev, what COCO's server said of these models" in lines[-1]
    assert "AP$_{75}$ (test-dev)" in to_latex(TABLE, frame)


def test_other_tables_never_show_them():
    table = load_tables(runs=RUNS)["table3"]
    scores = {"tood_af": ServerScores(**{**GOOD, "run": "tood_af"})}
    assert not [name for name in build(table, NOTHING, {}, RUNS, (), {}, scores) if "test_dev" in name]
