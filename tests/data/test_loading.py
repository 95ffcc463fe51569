"""Sizes of training images, against mmdet's own transforms, and the threads of loading processes."""

import json

import pytest
import torch
from mmdet.registry import TRANSFORMS
from mmengine.registry import init_default_scope

from tood.data.loading import SeededDataset, build_dataset, resizing
from tood.data.synthetic import DrawingSpec, generate
from tood.study.plan import Plan

TRAIN = Plan({}).scale.train
SIZE = (1333, 800)


def transform(short_sides):
    init_default_scope("mmdet")
    return TRANSFORMS.build(resizing(SIZE, short_sides))


def drawn_sides(short_sides, count: int) -> list[int]:
    """Limits of the shorter side as the transform draws them."""
    built = transform(short_sides)
    draw = built._random_scale if hasattr(built, "_random_scale") else lambda: built._random_select()[0]
    scales = [draw() for _ in range(count)]
    assert {long for long, _ in scales} == {SIZE[0]}
    return [short for _, short in scales]


def test_a_range_gives_every_whole_number_of_it():
    assert set(drawn_sides({"range": (640, 646)}, 400)) == set(range(640, 647))


def test_choices_give_these_alone():
    assert set(drawn_sides({"choices": [640, 672, 800]}, 200)) == {640, 672, 800}


@pytest.mark.parametrize("nothing", [None, {}])
def test_without_either_the_size_is_that_of_testing(nothing):
    assert resizing(SIZE, nothing) == dict(type="Resize", scale=SIZE, keep_ratio=True)


@pytest.mark.parametrize(
    "wrong",
    [{"range": (480, 640, 800)}, {"choices": []}, {"sizes": [480]}, {"range": (1, 2), "choices": [3]}],
)
def test_anything_else_is_refused_by_its_key(wrong):
    with pytest.raises(ValueError, match=r"^input.train_short_sides is .*range=\(low, high\) or choices"):
        resizing(SIZE, wrong)


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    root = tmp_path_factory.mktemp("squares")
    generate(root, DrawingSpec(seed=0, train_images=40, val_images=2, image_size=(64, 64)))
    return root


def dataset_of(root, **options):
    names = [c["name"] for c in json.loads((root / TRAIN.annotations).read_text())["categories"]]
    return build_dataset(root, *TRAIN, names, (64, 64), **options)


def test_images_are_those_of_mmdets_own_loader(real_images):
    """Of JPEG of 8 bits, with and without a flip; trainings see the very same pixels as mmdet's."""
    init_default_scope("mmdet")
    split = Plan({"scale": "paper"}).scale.val
    names = [c["name"] for c in json.loads((real_images / split.annotations).read_text())["categories"]]
    ours = build_dataset(real_images, *split, names, SIZE, flip=None)
    theirs = build_dataset(real_images, *split, names, SIZE, flip=None)
    theirs.pipeline.transforms[0] = TRANSFORMS.build(dict(type="LoadImageFromFile"))
    for index in range(min(len(ours), 9)):
        assert torch.equal(ours[index]["inputs"], theirs[index]["inputs"])
        assert ours[index]["data_samples"].metainfo == theirs[index]["data_samples"].metainfo


def test_images_of_a_training_differ_in_size_and_boxes_with_them(squares):
    dataset = dataset_of(squares, flip=0.0, short_sides={"range": (32, 64)})
    sides = set()
    for index in range(20):
        sample = SeededDataset(dataset, seed=0)[0, index]
        height, width = sample["inputs"].shape[1:]
        assert height == width
        assert 32 <= height <= 64
        sides.add(height)
        objects = dataset.get_data_info(index)["instances"]
        listed = [entry["bbox"] for entry in objects if not entry["ignore_flag"]]  # without crowds
        boxes = sample["data_samples"].gt_instances.bboxes.tensor.tolist()
        assert boxes == [pytest.approx([edge * height / 64 for edge in box], abs=0.01) for box in listed]
    assert len(sides) > 5


def test_the_size_depends_on_seed_epoch_and_image_alone(squares):
    def shapes(seed, epoch, indices=range(20)):
        dataset = dataset_of(squares, flip=0.5, short_sides={"choices": [32, 48, 64]})
        seeded = SeededDataset(dataset, seed)
        return [tuple(seeded[epoch, index]["inputs"].shape) for index in indices]

    assert shapes(0, 0) == shapes(0, 0)
    assert shapes(0, 0)[5:8] == shapes(0, 0, range(5, 8))
    assert shapes(0, 0) != shapes(0, 1)
    assert shapes(0, 0) != shapes(1, 0)


def test_test_images_have_one_size(squares):
    dataset = dataset_of(squares, flip=None, short_sides={"range": (32, 40)})
    assert {tuple(dataset[index]["inputs"].shape[1:]) for index in range(20)} == {(64, 64)}
