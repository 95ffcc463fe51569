"""The training loop: plain SGD over epochs, the paper's schedule, one device."""

import json
import math
import time
from pathlib import Path

import torch
from mmdet.datasets import CocoDataset
from mmdet.models.utils import unpack_gt_instances
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from torch import nn

from tood import positives
from tood.files import atomic_path
from tood.progress import Progress
from tood.training.data import epoch_batches
from tood.training.schedule import learning_rate

MOST_ITERATIONS_BETWEEN_RECORDS = 50  # at least one record an epoch


class Diverged(RuntimeError):
    """The loss is no longer a finite number."""


def build_optimizer(model: nn.Module, train_cfg: dict) -> torch.optim.Optimizer:
    """SGD with the learning rate and weight decay of biases apart where a run says so."""
    per_parameter = dict(bias_lr_mult=train_cfg.bias_lr_mult, bias_decay_mult=train_cfg.bias_decay_mult)
    wrapper = dict(
        optimizer=dict(
            type="SGD",
            lr=train_cfg.lr,
            momentum=train_cfg.momentum,
            weight_decay=train_cfg.weight_decay,
        ),
        paramwise_cfg=per_parameter if set(per_parameter.values()) != {1.0} else None,
    )
    return build_optim_wrapper(model, wrapper).optimizer


def train(
    model: nn.Module,
    dataset: CocoDataset,
    config: Config,
    *,
    seed: int,
    device: torch.device,
    records: Path,
    label: str,
    workers: int = 0,
    iterations: int | None = None,
) -> dict:
    """Train in place.

    Args:
        model: an mmdet detector with its initial weights.
        dataset: training images.
        config: resolved; its `train` and `schedule` are used.
        seed: decides the order of the images and their augmentation.
        device: to train on.
        records: JSON lines of losses are appended here.
        label: shown with the progress.
        workers: processes that load images.
        iterations: stop after so many in all.

    Returns:
        what the training took: iterations, images, seconds, images_per_second, peak_memory_mb

    Raises:
        Diverged: a loss is not finite.
    """
    train_cfg, schedule = config.train, config.schedule
    model.to(device).train()
    optimizer = build_optimizer(model, train_cfg)
    multipliers = [group["lr"] / train_cfg.lr for group in optimizer.param_groups]
    per_epoch = math.ceil(len(dataset) / train_cfg.batch_size)
    last = per_epoch * schedule.epochs if iterations is None else iterations
    total_images = min(last * train_cfg.batch_size, len(dataset) * schedule.epochs)
    between_records = min(MOST_ITERATIONS_BETWEEN_RECORDS, per_epoch)
    done, start = 0, time.monotonic()
    records.parent.mkdir(parents=True, exist_ok=True)
    with Progress(label, total_images) as progress, records.open("a") as log:
        for epoch in range(schedule.epochs):
            if done >= last:
                break
            if hasattr(model.bbox_head, "set_epoch"):
                model.bbox_head.set_epoch(epoch)
            _, batches = epoch_batches(dataset, train_cfg.batch_size, seed, epoch, workers)
            for batch in batches:
                rate = learning_rate(
                    done,
                    base=train_cfg.lr,
                    iterations_per_epoch=per_epoch,
                    milestones=schedule.milestones,
                    warmup_iterations=train_cfg.warmup_iterations,
                    warmup_factor=train_cfg.warmup_factor,
                    warmup=train_cfg.warmup,
                )
                if hasattr(model.bbox_head, "set_progress"):
                    model.bbox_head.set_progress(done / (per_epoch * schedule.epochs))
                for group, multiplier in zip(optimizer.param_groups, multipliers, strict=True):
                    group["lr"] = rate * multiplier
                data = model.data_preprocessor(batch, training=True)
                gt, ignored, metas = unpack_gt_instances(data["data_samples"])
                outs = model.bbox_head(model.extract_feat(data["inputs"]))
                loss, parts = model.parse_losses(model.bbox_head.loss_by_feat(*outs, gt, metas, ignored))
                value = loss.item()
                if not math.isfinite(value):
                    raise Diverged(f"the loss is {value} at iteration {done} (epoch {epoch}, lr {rate:g})")
                optimizer.zero_grad()
                loss.backward()
                if train_cfg.grad_clip:
                    nn.utils.clip_grad_norm_(model.parameters(), train_cfg.grad_clip)
                optimizer.step()
                done += 1
                if done % between_records == 0 or done == last:
                    entry = {"iteration": done, "epoch": done / per_epoch, "lr": rate}
                    entry |= positives.of_batch(model.bbox_head, outs, gt, metas)
                    log.write(json.dumps(entry | {k: v.item() for k, v in parts.items()}) + "\n")
                    log.flush()
                detail = f"epoch {epoch + 1}/{schedule.epochs}  loss {value:.3f}"
                progress.advance(len(batch["data_samples"]), detail)
                if done >= last:
                    break
    seconds = time.monotonic() - start
    return {
        "iterations": done,
        "images": progress.done,
        "seconds": round(seconds, 2),
        "images_per_second": round(progress.done / seconds, 2),
        "peak_memory_mb": round(torch.cuda.max_memory_allocated() / 2**20) if device.type == "cuda" else None,
    }


def save_model(path: Path, model: nn.Module, meta: dict) -> None:
    """Write the weights, atomically, in mmdet's checkpoint layout: `state_dict` and `meta`."""
    state = {name: tensor.cpu() for name, tensor in model.state_dict().items()}
    with atomic_path(path) as temporary:
        torch.save({"state_dict": state, "meta": meta}, temporary)


def load_model(path: Path, model: nn.Module) -> dict:
    """Load weights that `save_model` wrote, every one of them, and return their meta.

    Raises:
        RuntimeError: the file does not fit the model, or is no checkpoint.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        model.load_state_dict(checkpoint["state_dict"], strict=True)
        return checkpoint["meta"]
    except Exception as error:
        raise RuntimeError(f"{path}: cannot be loaded into this run's model: {error}") from error
