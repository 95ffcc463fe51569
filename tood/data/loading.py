"""COCO-layout datasets for mmdet models: their images, and the order and augmentation of these."""

import math
import random
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from mmdet.datasets import AspectRatioBatchSampler, CocoDataset
from mmdet.datasets.api_wrappers import COCO
from mmengine.dataset import DefaultSampler
from mmengine.registry import init_default_scope
from torch.utils.data import Dataset

from tood.data.images import read_image
from tood.data.loader import batches_of, make_loader
from tood.models.common.preprocessor import Collated, collate
from tood.runtime.distributed import local_batch

META_KEYS = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")


class _Annotations(COCO):
    """pycocotools' COCO, as mmdet reads it, with the ids of categories in the order of their given names."""

    def get_cat_ids(self, cat_names: Sequence[str]) -> list[int]:
        """The ids of these names in this file, in any order and numbering of the file."""
        ids = {category["name"]: category["id"] for category in self.dataset["categories"]}
        return [ids[name] for name in cat_names]


class _Images(CocoDataset):
    """mmdet's COCO dataset, in which a label is the same class in every file that names the class."""

    COCOAPI = _Annotations


def loaded(image: np.ndarray) -> dict:
    """The entries for mmdet's next transform, of an image [H, W, 3] BGR."""
    return {"img": image, "img_shape": image.shape[:2], "ori_shape": image.shape[:2]}


def load_image(entry: dict) -> dict:
    """mmdet's transform `LoadImageFromFile`, with the suite's one reader of images.

    Args:
        entry: of a dataset, with `img_path`.

    Raises:
        ImageError: as `read_image`.
    """
    return entry | loaded(read_image(entry["img_path"]))


def build_dataset(
    root: Path,
    annotations: str,
    images: str,
    classes: Sequence[str],
    size: Sequence[int],
    flip: float | None,
    short_sides: Mapping[str, Sequence[int]] | None = None,
) -> CocoDataset:
    """mmdet's COCO dataset with its standard pipeline.

    Args:
        root: folder of the dataset.
        annotations: annotation file, relative to `root`.
        images: image folder, relative to `root`.
        classes: names of categories of the file; a label is an index into them.
        size: upper limits of the (longer, shorter) side in pixels; the aspect ratio is kept.
        flip: probability of a horizontal flip in training; None makes a test dataset, which keeps images
            without objects. Annotations are resized with the images in both.
        short_sides: in training, the limits of the shorter side from which one is drawn for each image, as in
            `resizing`; None always uses the limit of `size`.

    Raises:
        ValueError: as `resizing`.
        KeyError: the file has no category of that name.
    """
    init_default_scope("mmdet")  # the pipeline names its transforms without a scope
    testing = flip is None
    pipeline = [
        load_image,
        dict(type="LoadAnnotations", with_bbox=True),
        resizing(size, None if testing else short_sides),
    ]
    if testing:
        pipeline.append(dict(type="PackDetInputs", meta_keys=META_KEYS))
    else:
        pipeline += [dict(type="RandomFlip", prob=flip), dict(type="PackDetInputs")]
    return _Images(
        data_root=str(root),
        ann_file=annotations,
        data_prefix=dict(img=images),
        metainfo=dict(classes=tuple(classes)),
        test_mode=testing,
        filter_cfg=None if testing else dict(filter_empty_gt=True, min_size=32),
        pipeline=pipeline,
    )


def resizing(size: Sequence[int], short_sides: Mapping[str, Sequence[int]] | None) -> dict:
    """mmdet's transform that resizes an image and keeps its aspect ratio.

    Args:
        size: upper limits of the (longer, shorter) side in pixels.
        short_sides: `{"range": (low, high)}` draws the second limit from all whole numbers from low to high,
            `{"choices": [...]}` draws one of these; papers write 640-800 for either. None or empty: no draw.

    Raises:
        ValueError: `short_sides` is none of these.
    """
    if not short_sides:
        return dict(type="Resize", scale=tuple(size), keep_ratio=True)
    ((kind, sides),) = short_sides.items() if len(short_sides) == 1 else (("", ()),)
    if (kind, len(sides)) != ("range", 2) and (kind != "choices" or not sides):
        raise ValueError(
            f"input.train_short_sides is {dict(short_sides)}; it must be range=(low, high) or choices=[...]"
        )
    scales = [(size[0], side) for side in sides]
    if kind == "range":
        return dict(type="RandomResize", scale=scales, keep_ratio=True)
    return dict(type="RandomChoiceResize", scales=scales, keep_ratio=True)


class SeededDataset(Dataset):
    """A dataset whose augmentations depend on seed, epoch and image alone, not on the process or the order.

    The key of a sample is its epoch, counted from 0, and its index. So loading processes serve all epochs.

    Args:
        dataset: its transforms draw from the generators of `random` and `numpy.random`.
        seed: seed of the run.
    """

    def __init__(self, dataset: CocoDataset, seed: int) -> None:
        self.dataset, self.seed = dataset, seed

    def __getitem__(self, key: tuple[int, int]) -> dict:
        epoch, index = key
        state = np.random.SeedSequence([self.seed, epoch, index]).generate_state(1)[0]
        random.seed(int(state))
        np.random.seed(state)  # noqa: NPY002 - mmdet's transforms draw from the legacy generator
        return self.dataset[index]


class LocalBatch(NamedTuple):
    """What one process computes of a batch."""

    replicas: list[Collated]
    number: int  # replicas of the whole batch
    counts: bool = True  # False: there are fewer replicas than processes, and this one repeats the first


def epoch_order(
    dataset: CocoDataset, batch_size: int, replica: int, seed: int, epoch: int
) -> list[list[list[int]]]:
    """The images of an epoch by batch and replica, as indices into the dataset.

    The images of a replica have the same orientation, as those of a GPU in mmdet. The last two
    replicas of an epoch may have both orientations, and the last one fewer images.

    Args:
        dataset: training images.
        batch_size: number of images in a batch of all processes, a multiple of `replica`.
        replica: number of images of one virtual GPU.
        seed: seed of the run; with the epoch it decides the order, which is the same in every process.
        epoch: counted from 0.
    """
    # The sampler adds the epoch to its seed. Without mixing, epoch 1 of a seed would be epoch 0 of the next.
    mixed = int(np.random.SeedSequence(seed).generate_state(1)[0])
    sampler = DefaultSampler(dataset, shuffle=True, seed=mixed, round_up=False)
    # The sampler would divide the images among processes. Here each process takes its part of each batch.
    sampler.rank, sampler.world_size, sampler.num_samples = 0, 1, len(dataset)
    sampler.set_epoch(epoch)
    replicas = list(AspectRatioBatchSampler(sampler, replica))
    size = batch_size // replica
    return [replicas[start : start + size] for start in range(0, len(replicas), size)]


def collate_replicas(replica: int, samples: list[dict]) -> list[Collated]:
    """The samples of several replicas, of which only the last may have fewer images."""
    return [collate(samples[start : start + replica]) for start in range(0, len(samples), replica)]


def batches_from(
    iteration: int,
    dataset: CocoDataset,
    batch_size: int,
    replica: int,
    seed: int,
    epochs: int,
    workers: int,
    stop: Callable[[], bool] = lambda: False,
) -> Generator[tuple[int, LocalBatch | None]]:
    """The epoch and the local batch of every iteration of a training, from `iteration` on.

    The same processes load all epochs, and begin with an epoch while the epoch before is still computed.
    Close the generator if you do not use it up. This ends the loading processes, which ignore signals.

    Args:
        iteration: number of batches to leave out at the start; their images are not loaded.
        dataset, batch_size, replica, seed: as for `epoch_order`.
        epochs: of the training.
        workers: number of processes that load images.
        stop: whether to stop waiting for a batch; the batch is then None, and no other should be requested.

    Raises:
        LoaderError: see `batches_of`.
    """
    first, skip = divmod(iteration, math.ceil(len(dataset) / batch_size))
    # Epoch and replicas of batches that are being loaded
    pending: deque[tuple[int, list[list[int]]]] = deque()

    def images() -> Iterator[list[tuple[int, int]]]:
        """Epoch and index of the images of this process's part, batch by batch."""
        for epoch in range(first, epochs):
            for batch in epoch_order(dataset, batch_size, replica, seed, epoch)[skip * (epoch == first) :]:
                pending.append((epoch, batch))
                yield [(epoch, index) for index in chain.from_iterable(local_batch(batch) or batch[:1])]

    loader = make_loader(
        SeededDataset(dataset, seed),
        workers,
        partial(collate_replicas, replica),
        leave_signals=True,
        batch_sampler=images(),
    )
    with closing(batches_of(loader, stop)) as loaded:
        epoch = first
        for replicas in loaded:
            if replicas is None:  # stopped, perhaps before any was requested
                yield epoch, None
                continue
            epoch, batch = pending.popleft()
            yield epoch, LocalBatch(replicas, len(batch), bool(local_batch(batch)))


def evaluation_batches(
    dataset: CocoDataset, batch_size: int, workers: int, indices: Sequence[int] | None = None
) -> tuple[list[int], Generator[Collated]]:
    """The images of a test dataset in the order of evaluation, and their batches.

    Only images of the same size are in a batch, so that none is padded for another.

    Args:
        dataset: of test images.
        batch_size: images in a batch, at most.
        workers: number of processes that load images.
        indices: of the images to use; None: all.

    Raises:
        LoaderError: by the batches; see `batches_of`.
    """
    of_size: dict[tuple[int, int], list[int]] = {}
    batches = []
    for index in range(len(dataset)) if indices is None else indices:
        info = dataset.get_data_info(index)
        size = info["height"], info["width"]
        of_size.setdefault(size, []).append(index)
        if len(of_size[size]) == batch_size:
            batches.append(of_size.pop(size))
    batches += of_size.values()
    loader = make_loader(dataset, workers, collate, batch_sampler=batches)
    return list(chain.from_iterable(batches)), batches_of(loader)
