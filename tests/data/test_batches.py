"""What an epoch consists of: order, augmentation, replicas and batches, in any number of processes."""

import json
import math
import multiprocessing
import random

import numpy as np
import pytest
import torch
from helpers.odd_images import ODD_IMAGES, VAL, odd_dataset

from tood.data.loading import SeededDataset, batches_from, build_dataset
from tood.data.synthetic import CLASSES
from tood.models.common.preprocessor import Collated
from tood.study.scales import load_scale

TRAIN = load_scale("smoke").train


def drawings(training_images, order, seed=3, epoch=1) -> dict:
    """Pixels and flip of the samples, drawn in that order."""
    dataset = SeededDataset(training_images, seed)
    samples = {index: dataset[epoch, index] for index in order}
    return {
        index: (sample["inputs"].numpy().tobytes(), sample["data_samples"].flip)
        for index, sample in samples.items()
    }


def test_augmentation_depends_on_seed_epoch_and_image_alone(training_images):
    order = range(len(training_images))
    expected = drawings(training_images, order)
    random.seed(99)
    np.random.seed(99)  # noqa: NPY002 - what the transforms draw from
    assert drawings(training_images, reversed(order)) == expected
    assert drawings(training_images, [5, 5, 0]) == {index: expected[index] for index in (5, 0)}
    for other in ({"epoch": 2}, {"seed": 4}):
        assert drawings(training_images, order, **other) != expected
    flips = [flip for _, flip in expected.values()]
    assert 0.2 < np.mean(flips) < 0.8


def batches_of(dataset, *, batch_size=4, replica=2, seed=0, epoch=0, workers=0, skip=0):
    """Of one epoch."""
    per_epoch = math.ceil(len(dataset) / batch_size)
    first = epoch * per_epoch + skip
    found = list(batches_from(first, dataset, batch_size, replica, seed, epoch + 1, workers))
    assert [of for of, _ in found] == [epoch] * (per_epoch - skip)
    batches = [batch for _, batch in found]
    assert all(batch.number == len(batch.replicas) and batch.counts for batch in batches)
    return batches


def replicas_of(batches) -> list[Collated]:
    return [replica for batch in batches for replica in batch.replicas]


def content(batches) -> list:
    return [
        (meta["img_id"], meta["flip"], pixels[:, :height, :width].numpy().tobytes())
        for replica in replicas_of(batches)
        for pixels, meta, (height, width) in zip(replica.images, replica.metas, replica.sizes, strict=True)
    ]


def orders(batches) -> list[list[int]]:
    """Images by replica."""
    return [[meta["img_id"] for meta in replica.metas] for replica in replicas_of(batches)]


def test_batches_are_the_same_with_and_without_workers(training_images):
    alone = batches_of(training_images, batch_size=8, workers=0)
    assert content(batches_of(training_images, batch_size=8, workers=2)) == content(alone)


def test_order_depends_on_seed_and_epoch(training_images):
    first = orders(batches_of(training_images, seed=1, epoch=2))
    torch.manual_seed(99)
    assert orders(batches_of(training_images, seed=1, epoch=2)) == first
    assert orders(batches_of(training_images, seed=2, epoch=2)) != first
    assert orders(batches_of(training_images, seed=1, epoch=3)) != first
    assert orders(batches_of(training_images, seed=3, epoch=0)) != first
    assert orders(batches_of(training_images, seed=2, epoch=1)) != first


def assert_an_epoch(dataset, batch_size, replica, epoch):
    """Each image once; a replica's are alike in orientation but for what is left over at the end."""
    batches = batches_of(dataset, batch_size=batch_size, replica=replica, epoch=epoch)
    ids = sorted(image for images in orders(batches) for image in images)
    assert ids == sorted(dataset.get_data_info(index)["img_id"] for index in range(len(dataset)))
    assert len(batches) == math.ceil(len(dataset) / batch_size)
    shapes = [[meta["ori_shape"] for meta in each.metas] for each in replicas_of(batches)]
    mixed = [len({width < height for height, width in images}) == 2 for images in shapes]
    assert sum(mixed) <= 1
    assert not any(mixed[:-2])
    assert all(len(images) == replica for images in shapes[:-1])
    assert all(len(batch.replicas) == batch_size // replica for batch in batches[:-1])


@pytest.mark.parametrize(("batch_size", "replica"), [(1, 1), (2, 2), (3, 1), (4, 2), (100, 100), (100, 2)])
@pytest.mark.parametrize("epoch", [0, 1])
def test_an_epoch_of_odd_images(odd, batch_size, replica, epoch):
    assert_an_epoch(odd_dataset(odd, 0.5), batch_size, replica, epoch)


def test_a_batch_has_replicas_of_both_orientations(odd):
    """Their padded sizes are their own, not the batch's."""
    wide = [
        {width > height for height, width in (meta["ori_shape"] for meta in each.metas)}
        for each in batches_of(odd_dataset(odd, 0.0), batch_size=100, replica=1)[0].replicas
    ]
    assert {True} in wide
    assert {False} in wide


@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_share_the_replicas_of_a_batch(odd, monkeypatch, world_size):
    """One that has none repeats the first, which does not count."""
    dataset = odd_dataset(odd, 0.5)
    whole, shares = batches_of(dataset), []
    monkeypatch.setattr("tood.runtime.distributed.get_world_size", lambda: world_size)
    for rank in range(world_size):
        monkeypatch.setattr("tood.runtime.distributed.get_rank", lambda rank=rank: rank)
        shares.append([batch for _, batch in batches_from(0, dataset, 4, 2, seed=0, epochs=1, workers=0)])
    for batch, *parts in zip(whole, *shares, strict=True):
        assert [images for part in parts if part.counts for images in orders([part])] == orders([batch])
        assert all(part.number == batch.number for part in parts)
        repeated = [orders([part]) for part in parts if not part.counts]
        assert all(images == orders([batch])[:1] for images in repeated)
    if world_size == 3:
        assert any(not part.counts for share in shares for part in share)


def test_an_epoch_can_begin_at_any_batch(training_images):
    whole = content(batches_of(training_images, batch_size=8, replica=4))
    assert content(batches_of(training_images, batch_size=8, replica=4, skip=3)) == whole[24:]


@pytest.mark.parametrize("workers", [0, 2])
def test_the_same_processes_load_all_epochs_and_nothing_skipped(training_images, monkeypatch, workers):
    """From the middle of an epoch on; the images are those of the epochs one by one."""
    loading, alive, made = [], set(), SeededDataset.__getitem__

    def get(self, key):
        loading.append(key)
        return made(self, key)

    monkeypatch.setattr(SeededDataset, "__getitem__", get)
    per_epoch = math.ceil(len(training_images) / 8)
    expected = [
        batch for epoch in range(3) for batch in batches_of(training_images, batch_size=8, epoch=epoch)
    ]
    loading.clear()
    found = []
    for _, batch in batches_from(per_epoch - 2, training_images, 8, 2, 0, 3, workers):
        alive |= {process.pid for process in multiprocessing.active_children()}
        found.append(batch)
    assert content(found) == content(expected[per_epoch - 2 :])
    assert len(alive) == workers
    if not workers:
        assert len(loading) == len(content(found))


def test_an_epoch_of_real_images(real_images):
    names = [c["name"] for c in json.loads((real_images / TRAIN.annotations).read_text())["categories"]]
    dataset = build_dataset(real_images, *TRAIN, names, (160, 96), 0.5)
    assert_an_epoch(dataset, 2, 2, 0)
    assert_an_epoch(dataset, 8, 4, 0)
    assert dataset.cat_ids[-1] == 90  # COCO's ids have gaps
    for index in range(5):
        height, width = dataset[index]["inputs"].shape[1:]
        assert max(height, width) <= 160
        assert min(height, width) <= 96


def test_images_without_objects_are_for_testing_only(odd, drawn):
    testing, training = odd_dataset(odd, None), odd_dataset(odd, 0.5)
    assert len(testing) == len(ODD_IMAGES)
    ids = {training.get_data_info(index)["img_id"] for index in range(len(training))}
    assert ids == set(ODD_IMAGES) - {5}
    val = json.loads((drawn / VAL.annotations).read_text())
    assert len(build_dataset(drawn, *VAL, CLASSES, (64, 64), None)) == len(val["images"])


@pytest.mark.parametrize("flip", [None, 0.0, 1.0])
def test_labels_and_boxes_are_those_of_the_file(odd, flip):
    dataset = odd_dataset(odd, flip, size=(192, 128))
    for index in range(len(dataset)):
        sample = dataset[index]["data_samples"]
        (width, height), listed = ODD_IMAGES[sample.img_id]
        scale = min(192 / max(width, height), 128 / min(width, height))
        expected = []
        for category, x, y, w, h, crowd in listed:
            x = width - x - w if flip else x
            expected += [(category, *(scale * v for v in (x, y, x + w, y + h)))] * (not crowd)
        found = sample.gt_instances
        boxes = found.bboxes.tensor.tolist()
        categories = [dataset.cat_ids[label] for label in found.labels]
        assert categories == [category for category, *_ in expected]
        for box, (_, *corners) in zip(boxes, expected, strict=True):
            assert box == pytest.approx(corners, abs=1)  # the sides of an image are rounded
        assert len(sample.ignored_instances) == sum(crowd for *_, crowd in listed)
