"""The notebook in examples/: each cell runs, and what the cells compute is what records and weights say."""

import csv
import json
import re
import statistics
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from nbclient import NotebookClient
from scipy import stats
from torchvision.ops import box_iou

from tood.data.seen import file_digest
from tood.data.synthetic import draw_image
from tood.evaluation.detector import Detector, of_file
from tood.runtime.quiet import quiet
from tood.study.plan import Plan

REPOSITORY = Path(__file__).parents[1]
NOTEBOOK = REPOSITORY / "examples/atss_and_tood.ipynb"
MINI = REPOSITORY / "results/mini"
RUNS = {"ATSS": "atss_af", "TOOD": "tood_af"}
# What the test compares, as JSON: the kernel is another process.
ADDED = """
import json
print(json.dumps({
    "image": int(image),
    "object": rows[0].instance,
    "boxes": rows[0].gt_boxes.tolist(),
    "names": list(rows[0].names),
    "found": found,
    "classified": [list(row.maps.classification) for row in rows],
    "maps": [[[level.scores.tolist(), level.ious.tolist()] for level in row.maps.levels] for row in rows],
    "table": {name: column.to_dict() for name, column in table.items()},
}))
"""


def test_the_notebook_is_kept_without_outputs():
    cells = [cell for cell in nbformat.read(NOTEBOOK, 4).cells if cell.cell_type == "code"]
    assert [cell.id for cell in cells if cell.outputs or cell.execution_count] == []
    nbformat.validate(nbformat.read(NOTEBOOK, 4))


def test_links_of_the_notebook_lead_somewhere():
    text = "".join(cell.source for cell in nbformat.read(NOTEBOOK, 4).cells if cell.cell_type == "markdown")
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert len(links) > 2
    assert [link for link in links if not (NOTEBOOK.parent / link).is_file()] == []


@pytest.fixture(scope="module")
def executed(tmp_path_factory) -> tuple[dict, dict]:
    """The outputs of each cell by its id, and what the added cell says."""
    notebook = nbformat.read(NOTEBOOK, 4)
    notebook.cells.append(nbformat.v4.new_code_cell(ADDED, id="added"))
    home = tmp_path_factory.mktemp("notebook")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(REPOSITORY))
        for name in ("JUPYTER_RUNTIME_DIR", "IPYTHONDIR", "TMPDIR"):
            (home / name).mkdir()
            patch.setenv(name, str(home / name))
        resources = {"metadata": {"path": str(NOTEBOOK.parent)}}  # as Jupyter starts it
        NotebookClient(notebook, kernel_name="python3", timeout=600, resources=resources).execute()
    outputs = {cell.id: cell.get("outputs", []) for cell in notebook.cells}
    return outputs, json.loads(outputs["added"][0].text)


@pytest.fixture(scope="module")
def detectors() -> dict[str, Detector]:
    quiet()
    return {name: of_file(MINI / f"runs/{run}/seed0.pth", device="cpu") for name, run in RUNS.items()}


@pytest.fixture(scope="module")
def image(executed) -> np.ndarray:
    """The image of the notebook, drawn anew: [H, W, 3] BGR."""
    drawing = Plan({"scale": "mini"}).drawing
    pixels, _ = draw_image(drawing, "val2017", executed[1]["image"] - 1_000_001)
    return np.ascontiguousarray(pixels[..., ::-1])


def test_nothing_is_printed_beside_what_is_shown(executed):
    streams = {
        id: [each for each in of_cell if each.output_type == "stream"] for id, of_cell in executed[0].items()
    }
    assert [id for id, of_cell in streams.items() if of_cell] == ["verdict", "added"]


def test_objects_are_those_that_are_drawn(executed):
    said = executed[1]
    _, annotations = draw_image(Plan({"scale": "mini"}).drawing, "val2017", said["image"] - 1_000_001)
    boxes = [one["bbox"] for one in annotations if not one["iscrowd"]]
    corners = np.array([[x, y, x + width, y + height] for x, y, width, height in boxes])
    np.testing.assert_allclose(said["boxes"], corners, atol=1e-4)  # mini does not resize
    assert said["object"] == np.argmax([width * height for _, _, width, height in boxes])


@pytest.mark.parametrize("name", RUNS)
def test_detections_are_those_of_the_weights_that_the_record_names(executed, detectors, image, name):
    record = json.loads((MINI / f"runs/{RUNS[name]}/seed0.json").read_text())
    assert file_digest(MINI / f"runs/{RUNS[name]}/seed0.pth") == record["weights"]
    expected = detectors[name].detect(image)
    found = [row for row in executed[1]["found"] if row[0] == name]
    assert len(found) == len(expected) > 10
    assert [row[1] for row in found] == [detectors[name].classes[label] for label in expected.labels]
    np.testing.assert_allclose([row[2] for row in found], expected.scores, rtol=1e-4)
    corners = np.array([row[3:] for row in found])
    corners[:, 2:] += corners[:, :2]
    np.testing.assert_allclose(corners, expected.bboxes, atol=1e-2)


@pytest.mark.parametrize("place", range(len(RUNS)))
def test_maps_are_every_anchors_score_and_iou(executed, detectors, image, place):
    said, detector = executed[1], list(detectors.values())[place]
    _, levels = detector.predict(detector.prepare(image))
    box = torch.tensor(said["boxes"])[said["object"]][None]
    label = detector.classes.index(said["names"][said["object"]])
    scores, ious = zip(*said["maps"][place], strict=True)
    assert len(scores) == len(levels) == 3
    for level, score, iou in zip(levels, scores, ious, strict=True):
        np.testing.assert_allclose(score, level.scores[:, label].view(level.grid), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(iou, box_iou(level.boxes, box).view(level.grid), atol=1e-4)
    (figure,) = executed[0]["figure"]
    assert len(figure.data["image/png"]) > 50_000


def ap_by_seed(run: str) -> dict[str, float]:
    """AP of the records of a run by seed, those of `metrics.csv` that are not stale."""
    with (MINI / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if (row["run"], row["metric"]) == (run, "AP")]
    seeds = [row["seed"] for row in rows if row["stale"] == "False"]
    records = {seed: json.loads((MINI / f"runs/{run}/seed{seed}.json").read_text()) for seed in seeds}
    return {seed: record["files"]["ap.json"]["AP"] for seed, record in records.items()}


def test_the_claim_is_what_the_records_say(executed):
    outputs, said = executed
    atss, tood = (ap_by_seed(run) for run in RUNS.values())
    seeds = sorted(set(atss) & set(tood), key=int)
    assert seeds
    differences = [tood[seed] - atss[seed] for seed in seeds]
    assert said["table"]["ATSS"] == pytest.approx({seed: atss[seed] for seed in seeds})
    assert said["table"]["TOOD"] == pytest.approx({seed: tood[seed] for seed in seeds})
    assert said["table"]["TOOD - ATSS"] == pytest.approx(dict(zip(seeds, differences, strict=True)))
    text = outputs["verdict"][0].text
    mean = statistics.mean(differences)
    assert f"{mean:+.1f} AP on average of {len(seeds)} seed" in text
    if len(seeds) == 1:
        assert "inconclusive" in text
        assert "one seed has no interval" in text
    else:
        error = statistics.stdev(differences) / len(seeds) ** 0.5
        low, high = stats.t.interval(0.95, len(seeds) - 1, loc=mean, scale=error)
        assert f"95% interval {low:+.1f} to {high:+.1f}" in text
        verdict = "same direction" if low > 0 else "opposite" if high < 0 else "inconclusive"
        assert f": {verdict}." in text
