"""`snakemake rehearse`: the table, what was measured behind it, and a study that knows nothing of it."""

import csv
import json

import pytest

from tood.ledger.rehearsal import HEADER

RUNS = ["tood_af", "atss_ab"]


def table(workspace, study: str) -> list[dict[str, str]]:
    with (workspace.path / f"work/{study}/rehearsal/table.csv").open() as file:
        return list(csv.DictReader(file))


def measured(workspace, study: str, run: str) -> dict:
    return json.loads((workspace.path / f"work/{study}/rehearsal/runs/{run}/rehearsed.json").read_text())


@pytest.fixture(scope="module")
def rehearsed(new_workspace):
    """Two runs of `smoke`, and what was printed."""
    workspace = new_workspace()
    before = workspace.run("tood", "progress", "--name", "smoke", "--json").stdout
    call = ("snakemake", "rehearse", "--cores", "1", "--config", f"runs={','.join(RUNS)}", "device=cpu")
    outcome = workspace.run(*call)
    assert outcome.returncode == 0, outcome.stdout
    return workspace, outcome.stdout, before, call


def test_the_table_is_what_was_measured(rehearsed):
    workspace, printed, _, _ = rehearsed
    rows = table(workspace, "smoke")
    assert [row["run"] for row in rows] == RUNS
    for row in rows:
        found = measured(workspace, "smoke", row["run"])
        assert (found["failed"], found["iterations"], found["images"], found["batch_size"]) == ("", 1, 8, 8)
        rate = found["images"] / found["seconds"]
        assert float(row["images_per_second"]) == pytest.approx(rate)
        assert int(row["epochs"]) == 6  # a half of 12, as the scale has it
        assert float(row["hours"]) == pytest.approx(found["trained_images"] * 6 / rate / 3600)
        micro_batch, memory = row["peak_memory_mb"].split(":")
        assert (micro_batch, row["micro_batch"]) == ("8", "8")
        assert 100 < float(memory) < 10_000
        assert found["evaluated_images"] == 4
        (line,) = (text for text in printed.splitlines() if text.startswith(f"{row['run']} "))
        assert line.split()[-1] == "ok"
        assert f"{rate:.3g}" in line.split()
    assert any(line.split()[0] == HEADER[0] and "images/s" in line for line in printed.splitlines() if line)
    assert f"snakemake --cores all --config scale=smoke runs={','.join(RUNS)} device=cpu" in printed


def test_the_study_knows_nothing_of_it(rehearsed):
    workspace, _, before, _ = rehearsed
    work = {path.name for path in (workspace.path / "work/smoke").iterdir()}
    assert work == {"rehearsal", "logs"}  # the log of how the images were drawn
    assert not (workspace.path / "results").exists()
    assert workspace.run("tood", "progress", "--name", "smoke", "--json").stdout == before
    planned = workspace.run("snakemake", "-n", "--config", f"runs={','.join(RUNS)}").stdout
    assert "train " in planned.replace("\n", " ")


def test_planning_rests_on_it(rehearsed):
    workspace, _, _, _ = rehearsed
    found = json.loads(workspace.run("tood", "plan", "--scale", "smoke", "--json").stdout)
    assert sorted(found["measured"]) == sorted(RUNS)
    assert found["device"].startswith("CPU (")
    assert found["basis"][0].startswith("Rehearsed: a few iterations of 2 runs on CPU (")


def test_the_same_call_measures_nothing_again(rehearsed):
    workspace, _, _, call = rehearsed
    before = workspace.files("work/smoke/rehearsal/runs")
    outcome = workspace.run(*call)
    assert outcome.returncode == 0, outcome.stdout
    assert workspace.files("work/smoke/rehearsal/runs") == before


@pytest.mark.slow  # two models of the paper's size
def test_a_run_that_fails_is_a_row_and_the_call_fails_at_its_end(workspace, photographs):
    """Here the file of initial weights is damaged."""
    (workspace.path / "weights").mkdir()
    (workspace.path / "weights/resnet50.pth").write_bytes(b"nothing")
    options = ("scale=paper", "runs=tood_af,atss_af", f"data_root={photographs}", "device=cpu")
    outcome = workspace.run("snakemake", "rehearse", "--cores", "1", "--config", *options)
    assert outcome.returncode
    assert "2 of 2 runs failed:" in outcome.stdout
    assert "Traceback" not in outcome.stdout
    assert [row["run"] for row in table(workspace, "paper")] == ["tood_af", "atss_af"]
    assert all("weights/resnet50.pth" in row["failed"] for row in table(workspace, "paper"))
    assert "rehearse.log says which runs failed" in outcome.stdout
    assert not (workspace.path / "results").exists()


@pytest.mark.parametrize("data", [pytest.param("tiny_coco", marks=pytest.mark.slow)])
def test_at_the_papers_size(workspace, request, data):
    root = request.getfixturevalue(data)
    options = ("scale=paper", "name=tried", "batch_size=1", "val_images=1", f"data_root={root}", "device=cpu")
    outcome = workspace.run("snakemake", "rehearse", "--cores", "all", "--config", *options, "runs=tood_af")
    assert outcome.returncode == 0, outcome.stdout
    (row,) = table(workspace, "tried")
    found = measured(workspace, "tried", "tood_af")
    images = {image["image_id"] for image in _annotations(root)}
    assert found["trained_images"] == len(images)
    assert float(row["hours"]) == pytest.approx(12 * len(images) * found["seconds"] / 3600)
    assert found["attempts"][0]["peak_memory_mb"] > 2000
    assert found["weights"] == "random"


def _annotations(root) -> list[dict]:
    return json.loads((root / "annotations/instances_train2017.json").read_text())["annotations"]
