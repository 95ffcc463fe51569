"""COCO-layout datasets for mmdet models: which images, in which order, how changed."""

import math
import os
import random
import signal
from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmdet.datasets import AspectRatioBatchSampler, CocoDataset
from mmdet.registry import DATASETS
from mmengine.dataset import DefaultSampler, pseudo_collate
from mmengine.registry import init_default_scope
from torch.utils.data import DataLoader, Dataset

from tood.runtime.distributed import own_share

META_KEYS = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")


def build_dataset(
    root: Path, annotations: str, images: str, classes: Sequence[str], size: Sequence[int], flip: float | None
) -> CocoDataset:
    """mmdet's COCO dataset with its standard pipeline.

    Args:
        root: folder of the dataset.
        annotations, images: annotation file and image folder below it.
        classes: category names; a label is an index into the categories of the file with these names.
        size: (longer, shorter) side at most, pixels, aspect ratio kept.
        flip: probability of a horizontal flip in training, None for a test dataset, which keeps images
            without objects. Annotations are resized with the images in both.
    """
    init_default_scope("mmdet")  # the pipeline's transforms are named without it
    testing = flip is None
    pipeline = [
        dict(type="LoadImageFromFile"),
        dict(type="LoadAnnotations", with_bbox=True),
        dict(type="Resize", scale=tuple(size), keep_ratio=True),
    ]
    if testing:
        pipeline.append(dict(type="PackDetInputs", meta_keys=META_KEYS))
    else:
        pipeline += [dict(type="RandomFlip", prob=flip), dict(type="PackDetInputs")]
    return DATASETS.build(
        dict(
            type="CocoDataset",
            data_root=str(root),
            ann_file=annotations,
            data_prefix=dict(img=images),
            metainfo=dict(classes=tuple(classes)),
            test_mode=testing,
            filter_cfg=None if testing else dict(filter_empty_gt=True, min_size=32),
            pipeline=pipeline,
        )
    )


class SeededDataset(Dataset):
    """Augmentations that depend on seed, epoch and image alone, whatever process draws them and when.

    Args:
        dataset: whose transforms draw from the generators of `random` and `numpy.random`.
        seed: of the run.
        epoch: from 0.
    """

    def __init__(self, dataset: CocoDataset, seed: int, epoch: int) -> None:
        self.dataset, self.seed, self.epoch = dataset, seed, epoch

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict:
        state = np.random.SeedSequence([self.seed, self.epoch, index]).generate_state(1)[0]
        random.seed(int(state))
        np.random.seed(state)  # noqa: NPY002 - mmdet's transforms draw from the legacy generator
        return self.dataset[index]


def epoch_batches(
    dataset: CocoDataset, batch_size: int, seed: int, epoch: int, workers: int, skip: int = 0
) -> tuple[int, Generator[dict | None]]:
    """The batches of one epoch and their number; images of like orientation go together, as in mmdet.

    Args:
        dataset: training images.
        batch_size: images in a batch, of which each process gets its share, None for no image.
        seed, epoch: decide the order, the same in every process.
        workers: processes that load images.
        skip: leave out so many batches at the start, without loading their images.
    """
    # The sampler adds epoch to seed: unmixed, epoch 1 of a seed would have the order of epoch 0 of the next.
    mixed = int(np.random.SeedSequence(seed).generate_state(1)[0])
    sampler = DefaultSampler(dataset, shuffle=True, seed=mixed, round_up=False)
    # By itself it shares out the images; here every process lists all batches and takes its part of each.
    sampler.rank, sampler.world_size, sampler.num_samples = 0, 1, len(dataset)
    sampler.set_epoch(epoch)
    batches = list(AspectRatioBatchSampler(sampler, batch_size))[skip:]
    shares = [own_share(batch) for batch in batches]
    loader = _loader(
        SeededDataset(dataset, seed, epoch),
        workers,
        batch_sampler=shares,
        worker_init_fn=_leave_signals,
    )
    return len(shares), _batches_of(loader)


def _batches_of(loader: DataLoader) -> Generator[dict | None]:
    yield from loader


def batches_from(
    iteration: int, dataset: CocoDataset, batch_size: int, seed: int, epochs: int, workers: int
) -> Generator[tuple[int, dict | None]]:
    """The epoch and the batch of every iteration of a training from this one on.

    To be closed where it is not used up: that ends the loading processes, which no signal ends.
    """
    first, skip = divmod(iteration, math.ceil(len(dataset) / batch_size))
    for epoch in range(first, epochs):
        _, batches = epoch_batches(dataset, batch_size, seed, epoch, workers, skip)
        with closing(batches):
            for share in batches:
                yield epoch, share
        skip = 0


def evaluation_batches(
    dataset: CocoDataset, batch_size: int, workers: int, indices: Sequence[int] | None = None
) -> tuple[int, DataLoader]:
    """The number and the batches of a test dataset's images, in order; of all of them without `indices`."""
    chosen = range(len(dataset)) if indices is None else indices
    return len(chosen), _loader(dataset, workers, batch_size=batch_size, sampler=chosen)


def _loader(dataset: Dataset, workers: int, **options: Any) -> DataLoader:
    # More processes than cores, as a laptop would get from a cluster's scale, only wait for each other.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return DataLoader(
        dataset,
        num_workers=min(workers, cores),
        collate_fn=_collate,
        generator=torch.Generator(),  # the global one, of which checkpoints keep the state, is not drawn from
        **options,
    )


def _leave_signals(worker: int) -> None:
    """A signal to the whole job is for the process that trains, which fails if its loaders die before it."""
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def _collate(samples: list[dict]) -> dict | None:
    return pseudo_collate(samples) if samples else None
