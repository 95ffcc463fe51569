"""The training loop: plain SGD over epochs, the paper's schedule, on any number of processes."""

import math
import time
from collections.abc import Callable
from contextlib import closing
from itertools import chain, islice
from pathlib import Path

import torch
from mmdet.datasets import CocoDataset
from mmdet.models.detectors import SingleStageDetector
from mmengine.config import Config, ConfigDict
from mmengine.dist import all_gather_object, barrier, get_rank, get_world_size
from mmengine.optim import build_optim_wrapper
from torch import nn

from tood.data.loading import batches_from
from tood.engine.checkpoint import Checkpoints, restore, training_state
from tood.engine.compiling import compile_network
from tood.engine.config import place_anchors
from tood.engine.loss_log import LossLog
from tood.engine.loss_watch import LossWatch
from tood.engine.replicas import Outs, batch_gradient, require_separable
from tood.engine.schedule import learning_rate
from tood.engine.stop_votes import StopVotes
from tood.models.common import positives
from tood.runtime.event_files import EventFiles
from tood.runtime.failures import Interrupted
from tood.runtime.progress import Progress
from tood.runtime.weight_file import read_weights

LOG_INTERVAL = 50  # iterations; an epoch has at least one entry


def build_optimizer(model: nn.Module, train_cfg: ConfigDict) -> torch.optim.Optimizer:
    """SGD; a run may set another learning rate of biases, and another weight decay of biases and norms.

    Parameters of equal settings are in one group. A GPU updates a group in one launch or a few.
    """
    multipliers = ("bias_lr_mult", "bias_decay_mult", "norm_decay_mult")
    per_parameter: dict = {name: train_cfg[name] for name in multipliers}
    # Biases of offsets do not count as biases, as in mmengine for the deformable layers of mmcv.
    offsets: dict = dict(custom_keys=dict(conv_offset={}))
    wrapper = dict(
        optimizer=dict(
            type="SGD",
            lr=train_cfg.lr,
            momentum=train_cfg.momentum,
            weight_decay=train_cfg.weight_decay,
            fused=True,
        ),
        paramwise_cfg=per_parameter | offsets if set(per_parameter.values()) != {1.0} else None,
    )
    optimizer = build_optim_wrapper(model, wrapper).optimizer
    groups: dict[str, dict] = {}
    for group in optimizer.param_groups:  # in mmengine each parameter with other settings has its own group
        settings = repr({name: value for name, value in group.items() if name != "params"})
        groups.setdefault(settings, group | {"params": []})["params"] += group["params"]
    optimizer.param_groups[:] = groups.values()
    return optimizer


def train(
    model: SingleStageDetector,
    dataset: CocoDataset,
    config: Config,
    *,
    seed: int,
    device: torch.device,
    loss_log: Path,
    event_files: Path | None = None,
    label: str,
    workers: int = 0,
    iterations: int | None = None,
    micro_batch: int | None = None,
    compile: bool = False,
    checkpoints: Checkpoints | None = None,
    stop: Callable[[], bool] = lambda: False,
    beat: Callable[..., None] = lambda **news: None,
) -> dict:
    """Train in place, from the newest checkpoint if there is one; all processes call this.

    Args:
        model: an mmdet detector with its initial weights.
        dataset: training images.
        config: resolved configuration, of which `train` and `schedule` are used.
        seed: seed of the order of the images and of their augmentation.
        device: device to train on.
        loss_log: file of losses as JSON lines; like all files, only rank 0 writes it.
        event_files: folder of TensorBoard's event files; None writes none.
        label: text that is shown with the progress.
        workers: number of processes that load images.
        iterations: limit of the number of iterations; None trains the whole schedule.
        micro_batch: most images of one process that have activations at a time; None: all of them.
        compile: backbone and neck by torch.compile, see `compile_network`.
        checkpoints: checkpoints to resume from and to save to; None saves nothing.
        stop: says whether to save and stop; see `StopVotes` for when it is called.
        beat: receives the progress after each iteration, in keys of `RunState`.

    Returns:
        totals of all attempts: iterations, images, seconds, images_per_second (of the last attempt),
        peak_memory_mb (of the main process's GPU)

    Raises:
        Diverged: a loss is not finite. On a GPU this is found at the next entry of the log or checkpoint, and
            no checkpoint is saved after it.
        Interrupted: `stop` said so; a checkpoint is saved.
        CheckpointError: a checkpoint cannot be written, or there are some and all are damaged.
        RuntimeError: the model cannot be trained in parts, see `require_separable`; or TensorBoard's package
            is not installed; or a compiler is missing, see `compile_network`.
    """
    train_cfg, schedule, main = config.train, config.schedule, get_rank() == 0
    batch_size = train_cfg.batch_size
    head = model.to(device).train().bbox_head
    place_anchors(head, device)
    if train_cfg.precision == "bf16" and device.type == "cuda":
        model.to(memory_format=torch.channels_last)
    require_separable(model, batch_size, micro_batch)
    if compile:
        compile_network(model)
    optimizer = build_optimizer(model, train_cfg)
    multipliers = [group["lr"] / train_cfg.lr for group in optimizer.param_groups]
    per_epoch = math.ceil(len(dataset) / batch_size)
    scheduled = per_epoch * schedule.epochs
    last = scheduled if iterations is None else min(iterations, scheduled)
    interval = min(LOG_INTERVAL, per_epoch)

    done, spent = 0, {"seconds": 0.0, "peak_memory": 0}
    if checkpoints and (saved := checkpoints.load()):
        restore(saved, model, optimizer)
        done, spent = saved["iteration"], saved["spent"]
        beat(resumed_from=done)
    first, start = done, time.monotonic()

    def images_until(iteration: int) -> int:
        epochs, batches = divmod(iteration, per_epoch)
        return epochs * len(dataset) + batches * batch_size

    def spent_in_all() -> dict:
        peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0  # bytes
        seconds = spent["seconds"] + time.monotonic() - start
        return {"seconds": seconds, "peak_memory": max(spent["peak_memory"], peak)}

    def rate_of(iteration: int) -> float:
        return learning_rate(
            iteration,
            base=train_cfg.lr,
            iterations_per_epoch=per_epoch,
            milestones=schedule.milestones,
            warmup_iterations=train_cfg.warmup_iterations,
            warmup_factor=train_cfg.warmup_factor,
            warmup=train_cfg.warmup,
        )

    watch = LossWatch(
        at_once=device.type == "cpu", describe=lambda i: f"epoch {i // per_epoch}, lr {rate_of(i):g}"
    )

    def save(checkpoints: Checkpoints) -> None:
        watch.read()  # a training that diverged has nothing to resume from
        log.sync()  # a checkpoint implies that all entries before it are in the log
        checkpoints.save(done, training_state(model, optimizer, iteration=done, spent=spent_in_all()))

    if main:
        log = LossLog(loss_log, done, EventFiles(event_files, done) if event_files else None)
    progress = Progress(label, images_until(last), done=images_until(done), bar=None if main else False)
    votes = StopVotes(stop, device)
    batches = batches_from(
        done, dataset, batch_size, train_cfg.replica, seed, schedule.epochs, workers, votes.leaves_wait
    )
    with progress, closing(batches):
        for epoch, batch in islice(batches, last - done):
            if votes.agreed(batch is None):
                if main and checkpoints and done > first:
                    save(checkpoints)
                if get_world_size() > 1 and votes.together:
                    barrier()  # if one process leaves early, the others end too
                raise Interrupted(f"stopped after {done} of {last} iterations; start again to go on")
            assert batch is not None  # for the type checker
            head.set_progress(epoch, done / scheduled)
            rate = rate_of(done)
            for group, multiplier in zip(optimizer.param_groups, multipliers, strict=True):
                group["lr"] = rate * multiplier
            logged = (done + 1) % interval == 0 or done + 1 == last
            measured: list[positives.PositiveStatistics] = []

            def measure(outs: Outs, gt: list, metas: list[dict], measured: list = measured) -> None:
                measured += positives.of_images(head, outs, gt, metas)

            observe = measure if logged and batch.counts else None
            try:
                losses = batch_gradient(model, batch, micro_batch, train_cfg.precision, observe)
            except Exception:
                watch.read()  # raises the reason if an earlier loss was not finite
                raise
            watch.add(losses["loss"], done)
            if train_cfg.grad_clip:
                nn.utils.clip_grad_norm_(model.parameters(), train_cfg.grad_clip)
            optimizer.step()
            done += 1

            if logged:
                watch.read()
                found = positives.summary(list(chain.from_iterable(all_gather_object(measured))))
                if main:
                    entry = {"iteration": done, "epoch": done / per_epoch, "lr": rate} | found
                    log.add(entry | {name: value.item() for name, value in losses.items()})
            if main:
                detail = f"epoch {epoch + 1}/{schedule.epochs}"
                if watch.last is not None:
                    detail += f"  loss {watch.last:.3f}"
                progress.advance(images_until(done) - progress.done, detail)
                beat(
                    iteration=done,
                    iterations=last,
                    epoch=epoch + 1,
                    epochs=schedule.epochs,
                    images_per_second=round(progress.rate, 2),
                    seconds_left=round(progress.seconds_left),
                    loss=watch.last,
                )
                if checkpoints and done < last and (done % per_epoch == 0 or checkpoints.due(done)):
                    save(checkpoints)
    took = spent_in_all()
    return {
        "iterations": done,
        "images": images_until(done),
        "seconds": round(took["seconds"], 2),
        "images_per_second": round(progress.rate, 2),
        "peak_memory_mb": round(took["peak_memory"] / 2**20) if device.type == "cuda" else None,
    }


def weights_of(model: nn.Module, meta: dict) -> dict:
    """The content of a file of weights, in mmdet's layout: `state_dict` and `meta`."""
    return {"state_dict": {name: tensor.cpu() for name, tensor in model.state_dict().items()}, "meta": meta}


def load_model(path: Path, model: nn.Module) -> dict:
    """Load all weights from a file that `weights_of` made, and return their meta.

    Raises:
        RuntimeError: the file does not fit the model, or is no checkpoint.
    """
    try:
        content = read_weights(path)
        model.load_state_dict(content.state_dict, strict=True)
    except RuntimeError as error:
        raise RuntimeError(f"{path}: cannot be loaded into this run's model: {error}") from error
    if not isinstance(content.meta, dict):
        raise RuntimeError(f"{path}: cannot be loaded into this run's model: it does not say what it is of")
    return content.meta
