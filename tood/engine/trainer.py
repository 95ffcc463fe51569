"""The training loop: plain SGD over epochs, the paper's schedule, on any number of processes."""

import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from itertools import chain, islice

import torch
from mmdet.datasets import CocoDataset
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.detectors import SingleStageDetector
from mmengine.config import Config
from mmengine.dist import all_gather_object, barrier, get_rank, get_world_size
from mmengine.structures import InstanceData
from torch import nn

from tood.data.loading import batches_from
from tood.engine.checkpoint import Checkpoints, restore, training_state
from tood.engine.compiling import compile_network
from tood.engine.config import place_anchors
from tood.engine.loss_watch import LossWatch
from tood.engine.optimizer import build_optimizer, set_learning_rate
from tood.engine.replicas import Outs, batch_gradient, require_separable
from tood.engine.reports import Reports
from tood.engine.schedule import Schedule
from tood.engine.stop_votes import StopVotes
from tood.models.common import positives
from tood.runtime.failures import Interrupted
from tood.study.jobs import Computing

LOG_INTERVAL = 50  # iterations; an epoch has at least one entry


def train(
    model: SingleStageDetector,
    dataset: CocoDataset,
    config: Config,
    *,
    seed: int,
    device: torch.device,
    computing: Computing,
    reports: Reports,
    iterations: int | None = None,
    checkpoints: Checkpoints | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> dict:
    """Train in place, from the newest checkpoint if there is one; all processes call this alike.

    Args:
        model: an mmdet detector with its initial weights.
        dataset: training images.
        config: resolved configuration, of which `train` and `schedule` are used.
        seed: seed of the order of the images and of their augmentation.
        device: device to train on.
        computing: loaders, micro batch and compilation.
        reports: what rank 0 writes and shows.
        iterations: limit of the number of iterations; None trains the whole schedule.
        checkpoints: checkpoints to resume from and to save to, by rank 0; None saves nothing.
        stop: says whether to save and stop; see `StopVotes` for when it is asked.

    Returns:
        what the training took in all attempts: iterations, images, seconds, images_per_second (of the last
        one), peak_memory_mb (of the main process's GPU)

    Raises:
        Diverged: a loss is not finite. On a GPU this is found at the next entry of the log or checkpoint, and
            no checkpoint is saved after it.
        Interrupted: `stop` said so; a checkpoint is saved.
        CheckpointError: a checkpoint cannot be written, or there are some and all are damaged.
        RuntimeError: the model cannot be trained in parts, see `require_separable`; or TensorBoard's package
            is not installed; or a compiler is missing, see `compile_network`.
    """
    settings, main = config.train, get_rank() == 0
    head = model.to(device).train().bbox_head
    place_anchors(head, device)
    if settings.precision == "bf16" and device.type == "cuda":
        model.to(memory_format=torch.channels_last)
    require_separable(model, settings.batch_size, computing.micro_batch)
    if computing.compile:
        compile_network(model)
    optimizer = build_optimizer(model, settings)
    schedule = Schedule(config, len(dataset), iterations)
    interval = min(LOG_INTERVAL, schedule.per_epoch)
    watch = LossWatch(at_once=device.type == "cpu", describe=schedule.describe)
    votes = StopVotes(stop, device)

    done, spent = 0, _Spent(device)
    if checkpoints and (saved := checkpoints.load()):
        restore(saved, model, optimizer)
        done, spent = saved["iteration"], _Spent(device, **saved["spent"])
    first = done

    def save() -> None:
        if main and checkpoints:
            watch.read()  # a training that diverged has nothing to go on from
            reports.sync()  # a checkpoint stands for the entries before it
            checkpoints.save(done, training_state(model, optimizer, iteration=done, spent=spent.so_far()))

    batches = batches_from(
        done,
        dataset,
        settings.batch_size,
        settings.replica,
        seed,
        schedule.epochs,
        computing.workers,
        votes.leaves_wait,
    )
    with reports.begin(schedule, done, silent=not main), closing(batches):
        for epoch, batch in islice(batches, schedule.last - done):
            if votes.agreed(batch is None):
                if done > first:
                    save()
                if get_world_size() > 1 and votes.together:
                    barrier()  # where one process leaves early, the others end, too
                raise Interrupted(f"stopped after {done} of {schedule.last} iterations; start again to go on")
            assert batch is not None  # for the type checker
            head.set_progress(epoch, done / schedule.scheduled)
            set_learning_rate(optimizer, schedule.rate(done))
            logged = (done + 1) % interval == 0 or done + 1 == schedule.last
            statistics: list[positives.PositiveStatistics] = []
            observe = partial(_observe, head, statistics) if logged and batch.counts else None
            try:
                losses = batch_gradient(model, batch, computing.micro_batch, settings.precision, observe)
            except Exception:
                watch.read()  # the reason, where a loss before was not finite
                raise
            watch.add(losses["loss"], done)
            if settings.grad_clip:
                nn.utils.clip_grad_norm_(model.parameters(), settings.grad_clip)
            optimizer.step()
            done += 1

            if logged:
                watch.read()
                of_batch = list(chain.from_iterable(all_gather_object(statistics)))
                reports.log(done, positives.means(of_batch), losses)
            reports.advance(done, watch.last)
            ends_epoch = done % schedule.per_epoch == 0
            if checkpoints and done < schedule.last and (ends_epoch or checkpoints.due(done)):
                save()
    took = spent.so_far()
    return {
        "iterations": done,
        "images": schedule.images(done),
        "seconds": round(took["seconds"], 2),
        "images_per_second": reports.images_per_second,
        "peak_memory_mb": round(took["peak_memory"] / 2**20) if device.type == "cuda" else None,
    }


def _observe(
    head: BaseDenseHead,
    statistics: list[positives.PositiveStatistics],
    outs: Outs,
    gt: list[InstanceData],
    metas: list[dict],
) -> None:
    """Add the positives of each image of a replica."""
    statistics += positives.of_images(head, outs, gt, metas)


class _Spent:
    """What a training has taken in this attempt and those before it.

    Args:
        device: of the training.
        seconds: of the attempts before.
        peak_memory: bytes of the GPU, of the attempts before.
    """

    def __init__(self, device: torch.device, seconds: float = 0.0, peak_memory: int = 0) -> None:
        self._device, self._seconds, self._peak_memory = device, seconds, peak_memory
        self._start = time.monotonic()

    def so_far(self) -> dict:
        """The arguments `seconds` and `peak_memory` of the next attempt."""
        peak = torch.cuda.max_memory_allocated() if self._device.type == "cuda" else 0
        seconds = self._seconds + time.monotonic() - self._start
        return {"seconds": seconds, "peak_memory": max(self._peak_memory, peak)}
