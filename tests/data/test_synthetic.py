"""The generated dataset: reproducible, in COCO's format, and with the content it is meant to have."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pydantic import ValidationError

from tood.data import synthetic
from tood.data.shapes import CENTRED, OFF_CENTRE
from tood.data.synthetic import CLASSES, SPLITS, DrawingSpec, draw_image, generate

SPEC = DrawingSpec(seed=7, train_images=60, val_images=30, image_size=(80, 64))


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data") / "drawn"
    generate(root, SPEC)
    return root


@pytest.fixture(scope="module", params=SPLITS)
def coco(request, root) -> COCO:
    return COCO(root / "annotations" / f"instances_{request.param}.json")


def tree(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def mask_of(annotation: dict, image_size: tuple[int, int]) -> np.ndarray:
    """Mask [H, W] of a polygon annotation that has not been indexed by COCO."""
    width, height = image_size
    return rle.decode(rle.merge(rle.frPyObjects(annotation["segmentation"], height, width))) > 0


def extents(mask: np.ndarray) -> np.ndarray:
    """(x, y, w, h) around the pixels that are set."""
    ys, xs = np.nonzero(mask)
    return np.array([xs.min(), ys.min(), xs.max() + 1 - xs.min(), ys.max() + 1 - ys.min()])


def coloured(pixels: np.ndarray) -> np.ndarray:
    """Mask [H, W] of what is vividly coloured: objects and distractors are, tables and dishes are not."""
    return np.ptp(pixels.astype(int), axis=2) > 54


@pytest.fixture(scope="module")
def solitary() -> list[tuple[np.ndarray, dict]]:
    """Images that hold one object and nothing else of colour, with its annotation."""
    spec = DrawingSpec(
        seed=3,
        train_images=1,
        val_images=1,
        image_size=(96, 96),
        objects_per_image=1,
        distractors_per_image=0,
        crowd_share=0,
        empty_share=0,
    )
    drawn = [draw_image(spec, "train2017", index) for index in range(320)]
    assert all(len(annotations) == 1 for _, annotations in drawn)
    return [(pixels, annotations[0]) for pixels, annotations in drawn]


def test_same_seed_gives_the_same_bytes(root, tmp_path):
    generate(tmp_path / "again", SPEC)
    assert tree(tmp_path / "again") == tree(root)


def test_another_seed_changes_every_image(root, tmp_path):
    generate(tmp_path / "other", SPEC.model_copy(update={"seed": 8}))
    ours, theirs = tree(root), tree(tmp_path / "other")
    assert ours.keys() == theirs.keys()
    assert all(ours[name] != theirs[name] for name in ours)


def test_train_and_val_images_differ():
    train, val = (draw_image(SPEC, split, 0)[0] for split in SPLITS)
    assert (train != val).any()


def test_an_image_does_not_depend_on_how_many_there_are(root, tmp_path):
    fewer = SPEC.model_copy(update={"train_images": 5, "val_images": 4})
    generate(tmp_path / "fewer", fewer)
    ours, theirs = tree(root), tree(tmp_path / "fewer")
    images = [name for name in theirs if name.endswith(".png")]
    assert len(images) == 9
    assert all(ours[name] == theirs[name] for name in images)
    for split, count in zip(SPLITS, (5, 4), strict=True):
        file = f"annotations/instances_{split}.json"
        many, few = json.loads(ours[file]), json.loads(theirs[file])
        assert few["images"] == many["images"][:count]
        assert few["annotations"] == many["annotations"][: len(few["annotations"])]
        assert {a["image_id"] for a in few["annotations"]} <= {i["id"] for i in few["images"]}


def test_layout_is_that_of_coco(root):
    ids = []
    for split, count in zip(SPLITS, (60, 30), strict=True):
        content = json.loads((root / "annotations" / f"instances_{split}.json").read_text())
        assert content.keys() == {"info", "licenses", "categories", "images", "annotations"}
        assert [c["id"] for c in content["categories"]] == list(range(1, 9))
        assert [c["name"] for c in content["categories"]] == list(CLASSES)
        assert len(content["images"]) == count
        assert {i["file_name"] for i in content["images"]} == {p.name for p in (root / split).iterdir()}
        for image in content["images"]:
            with Image.open(root / split / image["file_name"]) as png:
                assert (png.size, png.mode) == ((image["width"], image["height"]), "RGB")
                assert png.size == SPEC.image_size
        assert len({a["id"] for a in content["annotations"]}) == len(content["annotations"])
        ids += [i["id"] for i in content["images"]]
    assert len(ids) == len(set(ids)) == 90


def test_boxes_and_areas_fit_the_silhouettes(coco):
    fine = 8  # magnified, as COCO's masks lack whatever is thinner than a pixel
    width, height = SPEC.image_size
    singles = coco.loadAnns(coco.getAnnIds(iscrowd=False))
    assert len(singles) > 40
    for annotation in singles:
        assert coco.annToMask(annotation).any()
        larger = {"segmentation": [[v * fine for v in polygon] for polygon in annotation["segmentation"]]}
        mask = mask_of(larger, (width * fine, height * fine))
        assert annotation["bbox"] == pytest.approx(extents(mask) / fine, abs=0.5)
        assert annotation["area"] == pytest.approx(mask.sum() / fine**2, rel=0.1, abs=1)


def test_boxes_and_areas_fit_the_crowds(coco):
    for annotation in coco.loadAnns(coco.getAnnIds(iscrowd=True)):
        mask = coco.annToMask(annotation)
        assert annotation["bbox"] == extents(mask).tolist()
        assert annotation["area"] == mask.sum()


@pytest.mark.parametrize("corner", [False, True])
def test_run_lengths_decode_to_the_mask(corner):
    mask = np.zeros((5, 7), dtype=bool)
    mask[1:4, 2:4] = mask[4, 6] = True
    mask[0, 0] = corner
    encoded = synthetic.run_lengths(mask)
    assert (rle.decode(rle.frPyObjects(encoded, 5, 7)) == mask).all()


def test_boxes_stay_inside_the_image(coco):
    width, height = SPEC.image_size
    for annotation in coco.anns.values():
        x, y, w, h = annotation["bbox"]
        assert x >= 0
        assert y >= 0
        assert w > 0
        assert h > 0
        assert x + w <= width + 0.01
        assert y + h <= height + 0.01


def test_every_split_has_empty_images_and_crowds(coco):
    annotated = {annotation["image_id"] for annotation in coco.anns.values()}
    assert 0 < len(coco.imgs) - len(annotated) < 0.2 * len(coco.imgs)
    crowds = coco.loadAnns(coco.getAnnIds(iscrowd=True))
    assert 0 < len(crowds) < 0.2 * len(coco.imgs)
    for crowd in crowds:
        assert sum(crowd["segmentation"]["counts"]) == SPEC.image_size[0] * SPEC.image_size[1]
        # Far larger than one member can be: it stands for many.
        assert max(crowd["bbox"][2:]) > 1.8 * synthetic.CROWD_MEMBER_SIDE[1] * min(SPEC.image_size)


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (0.25, 10), (1.0, 40)])
def test_shares_hold_over_any_run_of_images(share, expected):
    spec = SPEC.model_copy(update={"empty_share": share, "crowd_share": 0})
    empty = [not draw_image(spec, "val2017", index)[1] for index in range(40)]
    assert sum(empty) == expected


def test_boxes_hold_the_coloured_pixels(solitary):
    for pixels, annotation in solitary:
        assert annotation["bbox"] == pytest.approx(extents(coloured(pixels)), abs=2)


def test_off_centre_classes_are_off_centre_as_drawn(solitary):
    offsets = {name: [] for name in CLASSES}
    for pixels, annotation in solitary:
        x, y, w, h = annotation["bbox"]
        if max(w, h) < 24 or min(x, y) < 1 or max(x + w, y + h) > 95:
            continue  # too coarse to measure, or cut by the border
        centroid = np.argwhere(coloured(pixels)).mean(axis=0)[::-1] + 0.5
        offset = (centroid - [x + w / 2, y + h / 2]) / [w, h]
        offsets[CLASSES[annotation["category_id"] - 1]].append(np.linalg.norm(offset))
    assert min(map(len, offsets.values())) >= 8
    medians = {name: np.median(values) for name, values in offsets.items()}
    assert min(medians[name] for name in OFF_CENTRE) > 0.09, medians
    assert max(medians[name] for name in CENTRED) < 0.03, medians


@pytest.mark.parametrize(("tilt", "above"), [(0.0, 1.0), (0.1, 1.0), (0.5, 0.5)])
def test_the_heads_of_upright_objects_are_above_their_middle(tilt, above):
    changes = {"image_size": (96, 96), "max_tilt": tilt, "crowd_share": 0, "empty_share": 0}
    spec = SPEC.model_copy(update=changes)
    found = []
    for index in range(60):
        for annotation in draw_image(spec, "train2017", index)[1]:
            _, y, _, height = annotation["bbox"]
            if CLASSES[annotation["category_id"] - 1] in OFF_CENTRE and y > 1 and y + height < 95:
                rows = np.nonzero(mask_of(annotation, spec.image_size))[0]
                found.append(rows.mean() + 0.5 < y + height / 2)
    assert len(found) > 20
    assert np.mean(found) == pytest.approx(above, abs=0.25 if above < 1 else 0)


def test_object_sizes(solitary):
    whole = []
    for _, annotation in solitary:
        x, y, w, h = annotation["bbox"]
        if min(x, y) > 0 and max(x + w, y + h) < 96:
            whole.append(max(w, h) / 96)
    low, high = synthetic.LONG_SIDE
    assert low - 0.001 <= min(whole) < 0.22
    assert 0.6 < max(whole) <= high + 0.001
    scales = [np.sqrt(a["bbox"][2] * a["bbox"][3]) for _, a in solitary]
    assert np.percentile(scales, [10, 50, 90]) == pytest.approx([22, 34, 53], rel=0.2)


def test_objects_per_image():
    counts = [len(draw_image(SPEC, "train2017", index)[1]) for index in range(300)]
    assert 1.9 < np.mean(counts) < 2.5


@pytest.mark.parametrize("max_hidden", [0.0, 0.4, 0.7])
def test_objects_overlap_but_stay_visible(max_hidden):
    spec = DrawingSpec(
        seed=1,
        train_images=1,
        val_images=1,
        image_size=(64, 64),
        objects_per_image=6,
        distractors_per_image=0,
        crowd_share=0,
        max_hidden=max_hidden,
    )
    hidden = []
    for index in range(40):
        front = np.zeros((64, 64), dtype=bool)
        for annotation in reversed(draw_image(spec, "train2017", index)[1]):
            mask = mask_of(annotation, spec.image_size)
            hidden.append((mask & front).sum() / mask.sum())
            front |= mask
    # Masks cut to whole pixels overlap a little where the drawn edges only touch.
    assert max(hidden) < max_hidden + 0.15
    assert (np.mean(np.array(hidden) > 0.2) > 0.1) == (max_hidden > 0)


def test_an_image_without_anything_to_draw():
    spec = SPEC.model_copy(update={"empty_share": 1.0, "distractors_per_image": 0, "dishes_per_image": 0})
    pixels, annotations = draw_image(spec, "train2017", 0)
    assert annotations == []
    assert not coloured(pixels).any()
    assert pixels.std() > 2  # textured


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupted_generation_leaves_what_was_there(tmp_path, monkeypatch, error):
    root = tmp_path / "data"
    spec = SPEC.model_copy(update={"train_images": 4, "val_images": 2})
    calls = itertools.count()

    def draw_or_stop(*args):
        if next(calls) == 5:  # in the middle of the second split
            raise error
        return draw_image(*args)

    with monkeypatch.context() as patch:
        patch.setattr(synthetic, "draw_image", draw_or_stop)
        with pytest.raises(error):
            generate(root, spec)
        assert list(tmp_path.iterdir()) == []

        patch.setattr(synthetic, "draw_image", draw_image)
        generate(root, spec)
        before = tree(root)
        calls = itertools.count()
        patch.setattr(synthetic, "draw_image", draw_or_stop)
        with pytest.raises(error):
            generate(root, spec.model_copy(update={"seed": 99}))
    assert tree(root) == before
    assert list(tmp_path.iterdir()) == [root]


def test_a_new_generation_replaces_the_old_one_whole(tmp_path):
    root = tmp_path / "data"
    generate(root, SPEC.model_copy(update={"train_images": 3, "val_images": 1}))
    generate(root, SPEC.model_copy(update={"train_images": 2, "val_images": 1}))
    assert sorted(p.name for p in (root / "train2017").iterdir()) == ["000000000001.png", "000000000002.png"]
    assert list(tmp_path.iterdir()) == [root]


def test_files_of_others_are_never_replaced(tmp_path):
    photo = tmp_path / "coco" / "train2017" / "photo.jpg"
    photo.parent.mkdir(parents=True)
    spec = SPEC.model_copy(update={"train_images": 1, "val_images": 1})
    photo.write_bytes(b"precious")
    with pytest.raises(FileExistsError, match=str(tmp_path / "coco")):
        generate(tmp_path / "coco", spec)
    assert photo.read_bytes() == b"precious"
    photo.unlink()
    generate(tmp_path / "coco", spec)  # folders alone, as a workflow prepares them, are no obstacle
    assert not photo.exists()


@pytest.mark.parametrize(
    "wrong",
    [
        {"image_size": (31, 64)},
        {"image_size": (64,)},
        {"seed": -1},
        {"train_images": 0},
        {"empty_share": 1.5},
        {"max_hidden": -0.1},
        {"colour": "red"},
    ],
)
def test_a_wrong_spec_is_refused_by_name(wrong):
    right = {"seed": 0, "train_images": 1, "val_images": 1, "image_size": (32, 32)}
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        DrawingSpec(**right | wrong)


def test_importing_costs_no_training_framework():
    heavy = "{'torch', 'mmdet', 'mmcv', 'mmengine', 'snakemake'}"
    program = f"import sys, tood.data.synthetic, tood.data.validation; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
