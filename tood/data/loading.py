"""COCO-layout datasets for mmdet models: their images, the order of these, and their augmentation."""

import math
import multiprocessing
import os
import pickle
import random
import resource
import signal
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmdet.datasets import AspectRatioBatchSampler, CocoDataset
from mmdet.registry import DATASETS
from mmengine.dataset import DefaultSampler, pseudo_collate
from mmengine.registry import init_default_scope
from torch.utils.data import DataLoader, Dataset, get_worker_info

from tood.data.images import read_image
from tood.runtime.distributed import local_batch
from tood.runtime.run_state import HEARTBEAT_TIMEOUT
from tood.runtime.waiting import wait_for

# Seconds until a batch must be there. A slow file system may take long for one; a training that says nothing
# for longer counts as dead anyway.
LONGEST_WAIT = HEARTBEAT_TIMEOUT
MOST_FILES = 65_536  # that a process may have open at a time; each tensor of a loading process is one
# By what torch and the system say of a lack: what lacks, and what to do
_LACKS = {
    ("shared memory", "Bus error", "No space left", "/torch_"): (
        "the processes that load images have too little shared memory; enlarge /dev/shm (docker run "
        "--shm-size=8g)"
    ),
    ("Too many open files", "ancdata"): (
        "the processes that load images may open too few files; raise `ulimit -n`"
    ),
    ("killed by signal", "exited unexpectedly", "Cannot allocate memory"): (
        "a process that loads images was killed or could not start, most likely as memory ran out; raise "
        "mem_mb in the scale's `resources`"
    ),
}
META_KEYS = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")


def loaded(image: np.ndarray) -> dict:
    """What mmdet's next transform takes of an image [H, W, 3] BGR."""
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
        classes: category names; a label is an index into the categories of the file with these names.
        size: upper limits of the (longer, shorter) side in pixels; the aspect ratio is kept.
        flip: probability of a horizontal flip in training; None makes a test dataset, which keeps images
            without objects. Annotations are resized with the images in both.
        short_sides: in training, what the upper limit of the shorter side is drawn from for each image, as
            `resizing` takes it; None is always that of `size`.

    Raises:
        ValueError: as `resizing`.
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


class LoaderError(RuntimeError):
    """Images cannot be loaded as the machine lacks something; the message says what, with a hint."""


class SeededDataset(Dataset):
    """A dataset whose augmentations depend on seed, epoch and image alone, not on the process or the order.

    Args:
        dataset: its transforms draw from the generators of `random` and `numpy.random`.
        seed: seed of the run.
        epoch: counted from 0.
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
    dataset: CocoDataset,
    batch_size: int,
    seed: int,
    epoch: int,
    workers: int,
    skip: int = 0,
    stop: Callable[[], bool] = lambda: False,
) -> tuple[int, Generator[dict | None]]:
    """The number of batches of one epoch, and this process's local batches (None for one without an image).

    The images of a batch have the same orientation, as in mmdet.

    Args:
        dataset: training images.
        batch_size: number of images in a batch of all processes.
        seed: seed of the run; with the epoch it decides the order, which is the same in every process.
        epoch: counted from 0.
        workers: number of processes that load images.
        skip: number of batches to leave out at the start; their images are not loaded.
        stop: whether to wait for a batch no longer; it is then None, and no other should be asked for.

    Raises:
        LoaderError: by the batches; see `_batches_of`.
    """
    # The sampler adds the epoch to its seed. Without mixing, epoch 1 of a seed would be epoch 0 of the next.
    mixed = int(np.random.SeedSequence(seed).generate_state(1)[0])
    sampler = DefaultSampler(dataset, shuffle=True, seed=mixed, round_up=False)
    # The sampler would divide the images among processes. Here each process takes its part of each batch.
    sampler.rank, sampler.world_size, sampler.num_samples = 0, 1, len(dataset)
    sampler.set_epoch(epoch)
    batches = list(AspectRatioBatchSampler(sampler, batch_size))[skip:]
    shares = [local_batch(batch) for batch in batches]
    loader = _loader(
        SeededDataset(dataset, seed, epoch),
        workers,
        batch_sampler=shares,
        worker_init_fn=_leave_signals,
    )
    return len(shares), _batches_of(loader, stop)


def _batches_of(loader: DataLoader, stop: Callable[[], bool] = lambda: False) -> Generator[Any]:
    """The batches of a loader, whose processes end with the generator, whatever they are doing.

    Raises:
        LoaderError: a batch is not there within `LONGEST_WAIT`, or a loading process was killed or lacks
            shared memory or open files.
    """
    others = set(multiprocessing.active_children())
    with _explained(loader.num_workers):
        iterator = iter(loader)
    loading = [process for process in multiprocessing.active_children() if process not in others]

    def receive() -> Any:
        batch = next(iterator)
        return pickle.loads(batch) if isinstance(batch, bytes) else batch

    try:
        for _ in range(len(loader)):
            with _explained(loader.num_workers):
                batch = wait_for(receive, LONGEST_WAIT, stop)
            yield batch
    finally:
        if loading:
            _end(loading, iterator)


def _end(loading: Sequence[BaseProcess], iterator: Any) -> None:
    """End the processes of a loader at once.

    torch waits for those that sleep, and then asks them by a signal that they ignore.
    """
    try:
        handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's would take their end for a fault
    except ValueError:  # not the main thread, which alone takes signals
        handler = None
    for process in loading:
        process.kill()
    iterator._shutdown_workers()
    if handler is not None:
        signal.signal(signal.SIGCHLD, handler)


@contextmanager
def _explained(workers: int) -> Generator[None]:
    """Say in words what the machine lacks, where a batch does not come for that."""
    fewer = "load with fewer processes (`workers` in the scale's `resources` and `evaluation`, 0 for none)"
    try:
        yield
    except TimeoutError as error:
        raise LoaderError(f"no batch of images: {error}; see whether the disk answers, or {fewer}") from error
    except (RuntimeError, OSError) as error:
        text = f"{error.__cause__ or ''}\n{error}"  # torch's first sign of a killed process is the cause
        for signs, problem in _LACKS.items():
            if workers and any(sign in text for sign in signs):
                last = text.strip().splitlines()[-1].strip()
                raise LoaderError(f"{problem}, or {fewer} ({last})") from error
        raise


def batches_from(
    iteration: int,
    dataset: CocoDataset,
    batch_size: int,
    seed: int,
    epochs: int,
    workers: int,
    stop: Callable[[], bool] = lambda: False,
) -> Generator[tuple[int, dict | None]]:
    """The epoch and the local batch of every iteration of a training, from `iteration` on.

    Close the generator if it is not used up. This ends the loading processes, which ignore signals. A batch
    for which `stop` ended the wait is None.
    """
    first, skip = divmod(iteration, math.ceil(len(dataset) / batch_size))
    for epoch in range(first, epochs):
        _, batches = epoch_batches(dataset, batch_size, seed, epoch, workers, skip, stop)
        with closing(batches):
            for share in batches:
                yield epoch, share
        skip = 0


def evaluation_batches(
    dataset: CocoDataset, batch_size: int, workers: int, indices: Sequence[int] | None = None
) -> tuple[int, Generator[dict]]:
    """The number of images of a test dataset, and its batches in order; `indices` restricts both.

    Raises:
        LoaderError: by the batches; see `_batches_of`.
    """
    chosen = range(len(dataset)) if indices is None else indices
    return len(chosen), _batches_of(_loader(dataset, workers, batch_size=batch_size, sampler=chosen))


def _loader(dataset: Dataset, workers: int, **options: Any) -> DataLoader:
    # More processes than cores only wait for each other, and a scale may ask a laptop for too many.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if workers:
        _allow_open_files()
    return DataLoader(
        dataset,
        num_workers=min(workers, cores),
        collate_fn=_collate,
        generator=torch.Generator(),  # leaves the global one alone, whose state is in checkpoints
        **{"worker_init_fn": _one_thread} | options,
    )


def _one_thread(worker: int) -> None:
    """Resize in the loading process itself: OpenCV would start a thread per core in each of them."""
    cv2.setNumThreads(0)  # torch does the same for its own threads


def _leave_signals(worker: int) -> None:
    """`_one_thread`, and ignore signals to the whole job: the training process needs its loaders."""
    _one_thread(worker)
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def _allow_open_files() -> None:
    """Raise the soft limit of open files, which is 1,024 on many systems, towards the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _collate(samples: list[dict]) -> dict | bytes | None:
    """A batch; in a loading process as it is sent to the one that waits.

    The process would else pack it in a thread of its queue, where a lack of shared memory loses the batch.
    """
    batch = pseudo_collate(samples) if samples else None
    return batch if get_worker_info() is None else bytes(ForkingPickler.dumps(batch))
