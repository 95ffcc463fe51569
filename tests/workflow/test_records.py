"""Records in the workflow: a clone shows the study without training, and trains what has no record."""

import json
import shutil
from pathlib import Path

import pytest
from helpers.tiny_study import CALL, TRAINED

from tood.study.pages import load_pages


@pytest.fixture
def clone(study, tmp_path):
    """What git keeps of it: no `work`, and no memory of Snakemake's."""
    clone = study.copy(tmp_path / "clone")
    shutil.rmtree(clone.path / "work")
    shutil.rmtree(clone.path / ".snakemake")
    return clone


def record(workspace, run: str) -> Path:
    return workspace.path / f"results/tiny/runs/{run}/seed0.json"


def test_a_clone_renders_the_same_without_training(study, clone):
    before = study.files("results/tiny/tables") | study.files("results/tiny/metrics.csv")
    shutil.rmtree(clone.path / "results/tiny/tables")
    (clone.path / "results/tiny/metrics.csv").unlink()
    outcome = clone.run("snakemake", *CALL)
    assert outcome.returncode == 0, outcome.stdout
    assert "2 of 2 trainings are taken from the records in results/tiny/runs; fresh=true" in outcome.stdout
    assert not (clone.path / "work/tiny/runs").exists()
    assert "generate data" not in outcome.stdout
    assert clone.files("results/tiny/tables") | clone.files("results/tiny/metrics.csv") == before
    again = clone.run("snakemake", *CALL)
    assert "Nothing to be done" in again.stdout


def test_figures_that_need_weights_stay_as_they_are(study, clone):
    figures = study.files("results/tiny/figures")
    (clone.path / "results/tiny/figures/distances.png").unlink()
    (clone.path / "results/tiny/report.html").unlink()
    outcome = clone.run("snakemake", *CALL)
    assert outcome.returncode == 0, outcome.stdout
    kept = clone.files("results/tiny/figures")
    assert {name: kept[name] for name in figures if "positives" not in name and name in kept} == {
        name: content
        for name, content in figures.items()
        if "positives" not in name and not name.endswith("distances.png")
    }
    page = (clone.path / "results/tiny/report.html").read_text()
    assert 'id="figure-figure1"' in page
    assert "distances is not shown: needs trained weights, which records do not hold; " in page
    assert "runs=atss_af,tood_af seeds=0 fresh=true" in page.replace("iterations=3 val_images=6 ", "")


def test_figures_1_and_4_are_drawn_from_weights_that_are_kept(study, tmp_path):
    """As from those in `work`; and so are detections. Weights that are not the record's stop the call."""
    clone = study.copy(tmp_path / "clone")
    for run in TRAINED:
        outcome = clone.run("tood", "keep", run, "--name", "tiny")
        assert outcome.returncode == 0, outcome.stdout
        assert record(clone, run).with_suffix(".pth").is_file()
    before = clone.files("results/tiny/figures")
    for folder in ("work", ".snakemake"):
        shutil.rmtree(clone.path / folder)
    for name in ("figure1", "figure4"):
        (clone.path / f"results/tiny/figures/{name}.png").unlink()
    outcome = clone.run("snakemake", *CALL)
    assert outcome.returncode == 0, outcome.stdout
    assert "train tood_af" not in outcome.stdout
    for name in ("figure1", "figure4"):
        for suffix in ("png", "md"):
            path = f"results/tiny/figures/{name}.{suffix}"
            assert (clone.path / path).read_bytes() == before[path]

    image = next((clone.path / "work/data/smoke/val2017").iterdir())
    shutil.rmtree(clone.path / "work/tiny/runs", ignore_errors=True)
    found = clone.run("tood", "detect", image, "--run", "tood_af", "--name", "tiny")
    assert found.returncode == 0, found.stdout
    assert "1 of 1 images" in found.stdout

    kept = record(clone, "tood_af").with_suffix(".pth")
    kept.write_bytes(kept.read_bytes()[:-1])
    found = clone.run("tood", "detect", image, "--run", "tood_af", "--name", "tiny")
    assert found.returncode == 2
    assert f"{kept.relative_to(clone.path)}: not the weights that seed0.json was measured on" in found.stdout


def test_the_report_of_a_clone_is_the_same(study, clone):
    before = (study.path / "results/tiny/report.html").read_text()
    assert clone.run("snakemake", *CALL, "--forcerun", "report").returncode == 0
    assert (clone.path / "results/tiny/report.html").read_text() == before


def test_the_training_machine_itself_finds_nothing_to_do(study):
    outcome = study.run("snakemake", "-n", *CALL)
    assert "Nothing to be done" in outcome.stdout
    assert "taken from the records" not in outcome.stdout


def test_a_record_that_was_edited_stops_the_call(clone):
    path = record(clone, "tood_af")
    content = json.loads(path.read_text())
    content["files"]["ap.json"]["AP"] = 99.9
    path.write_text(json.dumps(content))
    for call in (("snakemake", *CALL), ("tood", "report", "--name", "tiny")):
        if call[0] == "tood":
            (clone.path / "work/tiny").mkdir(parents=True)
            options = {"runs": TRAINED, "iterations": 3, "val_images": 6, "name": "tiny"}
            (clone.path / "work/tiny/study.json").write_text(json.dumps(options))
        outcome = clone.run(*call)
        assert outcome.returncode
        assert "tood_af/seed0.json: its content does not fit its checksum" in outcome.stdout
        assert "Traceback" not in outcome.stdout


def test_what_has_no_record_is_trained_and_the_rest_is_not(clone):
    record(clone, "tood_af").unlink()
    outcome = clone.run("snakemake", "-n", "-p", *CALL)
    assert "1 of 2 trainings are taken from the records" in outcome.stdout
    assert outcome.stdout.count("rule train:") == 1
    assert "wildcards: run=tood_af, seed=0" in outcome.stdout
    assert "wildcards: run=atss_af" not in outcome.stdout


def test_another_seed_is_trained_alone_and_shown_beside_the_recorded_one(clone):
    """Of figures that need weights, those of the recorded seed stay."""
    outcome = clone.run("snakemake", "-n", "-p", *CALL, "seeds=1")
    assert outcome.returncode == 0, outcome.stdout
    assert outcome.stdout.count("rule train:") == 2
    assert "seed=0" not in outcome.stdout
    assert "rule positives:" in outcome.stdout
    assert "rule figure1:" not in outcome.stdout
    assert "rule views:" not in outcome.stdout
    (clone.path / "results/tiny/figures/figure4.png").unlink()
    (clone.path / "results/tiny/figures/distances.png").unlink()
    assert clone.run("snakemake", "-n", "-p", *CALL, "seeds=1").returncode == 0


def test_fresh_trains_all_the_same_to_the_last_bit(study, clone):
    planned = clone.run("snakemake", "-n", "-p", *CALL, "fresh=true")
    assert planned.stdout.count("rule train:") == 2
    again = "results/tiny/runs/tood_af/seed0.json"
    outcome = clone.run("snakemake", again, *CALL, "fresh=true")
    assert outcome.returncode == 0, outcome.stdout
    old, new = (json.loads((one.path / again).read_text()) for one in (study, clone))
    assert new["weights"] == old["weights"]
    for file in ("ap.json", "alignment.json"):
        assert new["files"][file] == old["files"][file]
    assert new["files"]["provenance.json"]["digests"] == old["files"]["provenance.json"]["digests"]


def test_snakemakes_own_report_shows_each_figure_with_its_caption(study, tmp_path):
    page = tmp_path / "page.html"
    outcome = study.run("snakemake", *CALL, "--report", page)
    assert outcome.returncode == 0, outcome.stdout
    text = page.read_text()
    for name in ("figure1", "distances", "positives"):
        assert load_pages().figures[name][:40] in text
