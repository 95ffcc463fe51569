"""What each scheme of Table 2 makes positive: as in its loss, as counted, and as drawn."""

import functools
import io
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers.figures import likeness, pixels
from helpers.hard_images import METAS, NOTHING, ONE, SEVERAL, images, objects
from helpers.manifests import write_manifest
from helpers.task_alignment import dense_targets
from mmengine.registry import init_default_scope

from tood.analysis.figures.assignment import ImagePositives, draw
from tood.cli import main
from tood.data.synthetic import CLASSES, DrawingSpec, generate
from tood.engine.config import build_model, resolve
from tood.engine.weights import weights_of
from tood.models.common.dense_level import DenseLevel
from tood.models.common.positives import Positives, means, of_assignment, statistics
from tood.study.declarations import load_tables
from tood.study.plan import Plan

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
REPOSITORY = Path(__file__).parents[3]
DRAWN = [{"id": number, "name": name} for number, name in enumerate(CLASSES, 1)]
SCHEMES = [row.run for row in load_tables()["table2"].rows]


@pytest.fixture(autouse=True, scope="module")
def mmdet_scope():
    init_default_scope("mmdet")


def new_model(run: str) -> torch.nn.Module:
    """The smoke scale's detector of a run, late in its training."""
    config = resolve(Plan({}).settings(run), DRAWN, None)
    torch.manual_seed(0)
    model = build_model(config)
    model.init_weights()
    return at(model, 0.75)


@functools.cache
def the_model(run: str) -> torch.nn.Module:
    return new_model(run)


def at(model: torch.nn.Module, progress: float) -> torch.nn.Module:
    """The model in that share of a training of 12 epochs."""
    model.bbox_head.set_progress(int(progress * 12), progress)
    return model


# As in the loss

GTS = [SEVERAL, ONE]


def positives_of(head, outs) -> list[Positives]:
    return head.positives_by_feat(*outs, batch_gt_instances=GTS, batch_img_metas=METAS)


def assert_labels(found: list[Positives], labels: torch.Tensor, classes: int) -> None:
    """The positives are those of mmdet's labels [B, A], of objects of the right class."""
    for positives, label, gt in zip(found, labels, GTS, strict=True):
        assert torch.equal(positives.anchors, (label < classes).nonzero().squeeze(1))
        assert torch.equal(gt.labels[positives.objects], label[positives.anchors])
        assert len(positives.anchors) > 0


@pytest.mark.parametrize("run", ["retinanet", "pisa", "noisy_anchor", "atss_af", "atss_qfl"])
def test_positives_of_anchors_are_those_of_mmdets_targets(run):
    head = the_model(run).bbox_head
    outs = images(the_model(run))
    found = positives_of(head, outs)
    anchors, flags = head.get_anchors([x.shape[-2:] for x in outs[0]], METAS, device="cpu")
    targets = head.get_targets(anchors, flags, GTS, METAS)
    (labels, _, boxes, *_) = targets[1:] if run.startswith("atss") else targets
    assert_labels(found, torch.cat(labels, 1), head.num_classes)
    for positives, target, all_anchors, gt in zip(found, torch.cat(boxes, 1), anchors, GTS, strict=True):
        target = target[positives.anchors]
        if not run.startswith("atss"):  # whose targets are boxes already
            target = head.bbox_coder.decode(torch.cat(all_anchors)[positives.anchors], target)
        torch.testing.assert_close(target, gt.bboxes[positives.objects], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("run", ["fcos", "fovea"])
def test_positives_of_points_are_those_of_mmdets_targets(run):
    head = the_model(run).bbox_head
    outs = images(the_model(run))
    grids = [x.shape[-2:] for x in outs[0]]
    points = head.prior_generator.grid_priors(grids, device="cpu")
    if run == "fcos":
        labels = head.get_targets(points, GTS)[0]  # levels of [B * H * W]
    else:
        labels = head.get_targets(GTS, grids, points)[0].split([2 * len(p) for p in points])
    labels = torch.cat([level.reshape(2, -1) for level in labels], 1)
    assert_labels(positives_of(head, outs), labels, head.num_classes)


@pytest.mark.parametrize("run", ["paa", "paa_iou"])
def test_positives_of_paa_are_what_its_loss_is_left_with(run, monkeypatch):
    head = the_model(run).bbox_head
    outs = images(the_model(run))
    found = positives_of(head, outs)
    labels, reassign = [], head.paa_reassign

    def spy(*args):
        returned = reassign(*args)
        labels.append(returned[0])
        return returned

    monkeypatch.setattr(head, "paa_reassign", spy)
    head.loss_by_feat(*outs, GTS, METAS)
    assert_labels(found, torch.stack(labels), head.num_classes)


@pytest.mark.parametrize("progress", [0.0, 0.75])
@pytest.mark.parametrize("run", ["tal", "tal_tap_18e"])
def test_positives_of_tal_are_its_targets(run, progress):
    head = the_model(run).bbox_head
    scores, boxes = outs = images(at(the_model(run), progress))
    found = positives_of(head, outs)
    targets = dense_targets(head, scores, boxes, GTS, METAS)
    assert_labels(found, targets.labels, head.num_classes)
    for positives, boxes, gt in zip(found, targets.boxes, GTS, strict=True):
        assert torch.equal(boxes[positives.anchors], gt.bboxes[positives.objects])


@pytest.mark.parametrize(("run", "bag"), [("freeanchor", 50), ("mal", 40)])
def test_weights_of_freeanchor_are_those_of_its_loss(run, bag, monkeypatch):
    head = the_model(run).bbox_head
    outs = images(the_model(run))
    found = positives_of(head, outs)
    probabilities, bag_loss = [], head.positive_bag_loss

    def spy(cls_probability, box_probability):
        probabilities.append(cls_probability * box_probability)
        return bag_loss(cls_probability, box_probability)

    monkeypatch.setattr(head, "positive_bag_loss", spy)
    head.loss_by_feat(*outs, GTS, METAS)
    (of_batch,) = probabilities
    for positives, probability, gt in zip(found, of_batch.split([len(gt) for gt in GTS]), GTS, strict=True):
        assert torch.equal(positives.objects, torch.arange(len(gt)).repeat_interleave(bag))
        weights = positives.weights.view(len(gt), bag)
        torch.testing.assert_close(weights.sum(1), torch.ones(len(gt)))
        # The mean-max function is a mean by these weights; mmdet's bags are not sorted.
        expected = 1 / (1 - probability)
        expected = (expected / expected.sum(1, keepdim=True)).sort(1)[0]
        torch.testing.assert_close(weights.sort(1)[0], expected, rtol=1e-4, atol=0)


def test_only_the_adaptive_choices_need_a_model():
    adaptive = {run for run in SCHEMES if the_model(run).bbox_head.assigns_by_prediction}
    rows = load_tables()["table2"].rows
    assert adaptive == {row.run for row in rows if row.key["Pos/neg"] == "ada"}


# Points that lie in two objects of one class: the smaller one has them

LARGE, SMALL = [8.0, 8, 24, 24], [12.0, 8, 24, 20]


def owners(run: str) -> dict[tuple[float, float], int]:
    """Object of each positive point (x, y) of an image of two objects of one class."""
    model = the_model(run)
    outs = images(model)
    gts = [objects(LARGE, SMALL, labels=[1, 1]), NOTHING]
    positives, none = model.bbox_head.positives_by_feat(*outs, batch_gt_instances=gts, batch_img_metas=METAS)
    assert len(none.anchors) == 0
    levels = model.bbox_head.dense_by_feat(*outs, batch_img_metas=METAS)[0]
    points = torch.cat([level.points for level in levels])[positives.anchors]
    return {
        tuple(point): owner for point, owner in zip(points.tolist(), positives.objects.tolist(), strict=True)
    }


def test_owner_of_a_point_of_fcos():
    # On the first level points are at 2, 6, 10, ...; the regression ranges of the others start at 16 pixels.
    inside = {(x, y): 0 for x in (10, 14, 18, 22) for y in (10, 14, 18, 22)}
    assert owners("fcos") == inside | {(x, y): 1 for x in (14, 18, 22) for y in (10, 14, 18)}


def test_owner_of_a_point_of_foveabox():
    # The inner 40 % of each side: (12.8, 19.2) of the large, (15.6, 20.4) and (11.6, 16.4) of the small
    # object. Points at 4 n + 2 on the first level and at 8 n + 4 on the second, which is for objects of 16
    # to 64 pixels. So the large alone is on the second, and none of its points is in the inner part.
    inner = {(x, y): 0 for x in (14, 18) for y in (14, 18)}
    assert owners("fovea") == inner | {(18, 14): 1}


# Counting


def level_of(*boxes: list[float]) -> DenseLevel:
    boxes = torch.tensor(boxes)
    scores = torch.zeros(len(boxes), 3)
    return DenseLevel(scores, scores, boxes, boxes[:, :2], (1, len(boxes)), 8)


LEVELS = [level_of([0.0, 0, 10, 10], [0, 0, 10, 5]), level_of([20.0, 20, 40, 40], [0, 0, 5, 5])]
TRUTH = torch.tensor([[0.0, 0, 10, 10], [20, 20, 40, 30], [50, 50, 60, 60]])


def test_statistics_of_an_assignment_by_hand():
    positives = of_assignment(torch.tensor([0, 0, 1, -1]))
    assert positives.anchors.tolist() == [0, 1, 2]
    count, iou = statistics(positives, LEVELS, TRUTH)
    assert count.tolist() == [2, 1, 0]
    assert iou[:2].tolist() == pytest.approx([(1 + 0.5) / 2, 0.5])
    assert iou[2].isnan()


@pytest.mark.parametrize(
    ("weights", "count", "iou"),
    [
        ([0.25, 0.25, 0.25], 3.0, (1 + 0.5 + 0.25) / 3),  # equal: as many as there are
        ([1.0, 0.0, 0.0], 1.0, 1.0),  # one alone
        ([0.5, 0.5, 0.0], 2.0, 0.75),
        ([0.6, 0.2, 0.2], 1 / (0.36 + 0.04 + 0.04), 0.6 + 0.1 + 0.05),
    ],
)
def test_statistics_of_weights_by_hand(weights, count, iou):
    positives = Positives(torch.tensor([0, 1, 3]), torch.zeros(3, dtype=torch.long), torch.tensor(weights))
    found = statistics(positives, LEVELS, TRUTH[:1])
    assert found.number.item() == pytest.approx(count)
    assert found.iou.item() == pytest.approx(iou)


def test_an_anchor_may_serve_two_objects():
    positives = Positives(torch.tensor([1, 1]), torch.tensor([0, 1]), torch.tensor([1.0, 1.0]))
    count, iou = statistics(positives, LEVELS, torch.tensor([[0.0, 0, 10, 10], [0, 0, 5, 5]]))
    assert count.tolist() == [1, 1]
    assert iou.tolist() == pytest.approx([0.5, 0.5])


def test_means_are_over_the_objects_of_all_images():
    first = statistics(of_assignment(torch.tensor([0, 0, 1, -1])), LEVELS, TRUTH)
    second = statistics(of_assignment(torch.tensor([-1, 0, -1, -1])), LEVELS, TRUTH[:1])
    nothing = statistics(of_assignment(torch.full((4,), -1)), LEVELS, TRUTH[:0])
    assert means([first, nothing, second]) == {
        "objects": 4,
        "positives": pytest.approx((2 + 1 + 0 + 1) / 4),
        "positive_iou": pytest.approx((0.75 + 0.5 + 0.5) / 3),
    }
    assert means([nothing]) == {"objects": 0, "positives": None, "positive_iou": None}


# Drawn on one image


@pytest.fixture
def study(tmp_path, monkeypatch) -> Path:
    """A folder in which the smoke study's data was drawn and checked, its first image emptied."""
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "data"
    generate(root, DrawingSpec(seed=0, train_images=2, val_images=2, image_size=(64, 64)))
    annotations = root / Plan({}).scale.val.annotations
    content = json.loads(annotations.read_text())
    emptied = content["images"][0]["id"]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != emptied]
    annotations.write_text(json.dumps(content))
    write_manifest(tmp_path / "work/smoke/manifest.json", root, DRAWN)
    (tmp_path / "Snakefile").touch()  # no command looks into the clone, where the study may be trained
    return tmp_path


def names_of(study: Path, split: str) -> list[str]:
    content = json.loads((study / "data" / getattr(Plan({}).scale, split).annotations).read_text())
    return [image["file_name"] for image in content["images"]]


def assign(schemes: str, image: str) -> int:
    return main(["assign", "--image", image, "--schemes", schemes, "--output", "out/assignment.png"])


def panels(*images: Path) -> list[int]:
    """How often each image is shown in what was drawn."""
    page = pixels(Path("out/assignment.png"), width=600)
    shown = []
    for path in images:
        fits = likeness(page, pixels(path), range(150, 200, 2)) > 0.5
        shown.append(cv2.connectedComponents(cv2.dilate(fits.astype(np.uint8), np.ones((9, 9))))[0] - 1)
    return shown


def test_static_schemes_are_drawn_without_training(study, capsys):
    assert assign("retinanet,fovea,fcos,atss_af,noisy_anchor", names_of(study, "val")[1]) == 0
    header, *found, written = capsys.readouterr().out.splitlines()
    assert header == "study smoke"
    assert written == "written to out/assignment.png"
    assert [line.split()[0] for line in found] == ["retinanet", "fovea", "fcos", "atss_af", "noisy_anchor"]
    assert all(line.endswith("positives per object, untrained") for line in found)
    counts = {line.split()[0]: float(line.split()[1]) for line in found}
    assert min(counts.values()) > 0
    assert counts["noisy_anchor"] <= 30
    assert [path.name for path in Path("out").iterdir()] == ["assignment.png"]
    assert panels(*(study / "data/val2017" / name for name in names_of(study, "val"))) == [0, 5]


def test_images_of_training_are_found_by_their_id_too(study, capsys):
    content = json.loads((study / "data" / Plan({}).scale.train.annotations).read_text())
    assert assign("retinanet", str(content["images"][0]["id"])) == 0
    assert capsys.readouterr().out.startswith("study smoke\nretinanet ")


def test_adaptive_schemes_need_a_trained_model(study, capsys):
    image = names_of(study, "val")[1]
    for run in ("tal", "paa", "freeanchor", "mal"):
        assert assign(f"retinanet,{run}", image) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"tood: work/smoke/runs/{run}/seed0/model.pth: not there; {run} assigns by")
        assert f"run the workflow with runs={run}" in error
        assert not Path("out").exists()
    for run in ("tal", "paa", "mal"):
        folder = study / f"work/smoke/runs/{run}/seed0"
        folder.mkdir(parents=True)
        torch.save(weights_of(new_model(run), {}), folder / "model.pth")
    assert assign("tal,paa,mal", image) == 0
    lines = capsys.readouterr().out.splitlines()[1:-1]
    assert all(float(line.split()[1]) > 0 and 0 < float(line.split()[-1]) < 1 for line in lines), lines


def test_a_panel_shows_the_positives_in_their_places():
    image = np.full((40, 60, 3), 200, dtype=np.uint8)
    boxes, points = np.array([[5.0, 5, 30, 30], [20, 10, 50, 35]]), np.array([[10.0, 10], [20, 20], [40, 24]])
    parts = dict(trained=True, image=image, gt_boxes=boxes, per_object=1.5, iou=0.5)
    parts |= dict(title="A scheme", names=["disc", "ring"], strides=[4, 8, 16])
    nothing = dict(points=points[:0], levels=np.zeros(0), objects=np.zeros(0, int), weights=np.ones(0))
    some = dict(points=points, levels=np.array([0, 0, 2]), objects=np.array([0, 0, 1]), weights=np.ones(3))
    figure = draw([ImagePositives("some", **parts, **some), ImagePositives("none", **parts, **nothing)])
    first, second = figure.axes
    assert [dots.get_offsets().tolist() for dots in first.collections] == [points[:2].tolist(), [[40, 24]]]
    colours = [tuple(box.get_edgecolor()[:3]) for box in first.patches]
    of_dots = [tuple(c[:3]) for dots in first.collections for c in dots.get_facecolors()]
    assert of_dots == [colours[0], colours[0], colours[1]]
    assert len(second.collections) == 0
    assert first.get_title() == "A scheme\n1.5 positives per object, IoU of their boxes 0.50"
    assert [text.get_text().strip() for text in first.texts] == ["disc", "ring"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["stride 4", "stride 16"]
    draw([ImagePositives("none", **parts, **nothing)]).savefig(io.BytesIO())


@pytest.mark.parametrize(
    ("image", "parts"),
    [
        (
            "nowhere.jpg",
            ["--image nowhere.jpg: neither file_name, id, path nor base name", "instances_val2017.json"],
        ),
        (0, ["has no object; choose an image that has"]),
    ],
    ids=["unknown", "without objects"],
)
def test_images_that_cannot_be_drawn(study, capsys, image, parts):
    image = names_of(study, "val")[image] if isinstance(image, int) else image
    assert assign("retinanet", image) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert all(part in error for part in parts), error


def test_data_that_was_not_checked(study, capsys):
    (study / "work/smoke/manifest.json").unlink()
    assert assign("retinanet", "1") == 2
    call = "snakemake work/smoke/manifest.json --cores all --config scale=smoke"
    assert f"this checks the data of the study, which writes it:\n{call}" in capsys.readouterr().err


def test_unknown_schemes(study, capsys):
    assert assign("retinaned", "1") == 2
    assert "did you mean retinanet" in capsys.readouterr().err
