"""The gradient of one batch, which is a number of replicas.

A *replica* is one virtual GPU of a recipe's source: 2 or 4 consecutive images, padded to one size. Its loss
is what the source computes on a GPU. The gradient of the batch is the mean over replicas, on any number of
processes. Numbers that the source averages over GPUs, by `reduce_mean`, are averaged over the replicas of the
batch. Processes exchange only these numbers and the gradient.

At most `micro_batch` images of a process have activations at a time. Replicas of one padded size go through
the network together. There are two ways to the gradient:

- `_one_after_another`: pass after pass, if the divisors of the losses are known before, or can be applied to
  the gradient afterwards (`tood.models.common.divisors`). Nothing is computed twice.
- `_all_together`: the head predicts all images, and then the losses of all replicas are evaluated side by
  side. If not all activations fit, none are kept, and each pass is computed again for its backward pass
  (gradient caching: Gao et al., RepL4NLP 2021, arXiv:2101.06983).

This is exact if the prediction for an image depends only on that image and its padding. With trained batch
normalisation it depends on other images too. Then all images of a batch are padded to one size, and go
through the network at once in one process.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import torch
from mmdet.models.detectors import SingleStageDetector
from mmdet.models.utils import unpack_gt_instances
from mmengine.dist import all_reduce, get_world_size
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from tood.data.loading import LocalBatch
from tood.engine.gradient_sum import summed_over_processes
from tood.engine.side_by_side import averaging, evaluate_side_by_side
from tood.models.common.divisors import Divisors
from tood.models.common.precision import single_at_least
from tood.models.common.preprocessor import Collated
from tood.runtime.failures import Diverged
from tood.study.jobs import DEFAULT_PRECISION, Precision

# What a dense head's forward returns: maps [B, channels, H, W], by kind and level.
Outs = tuple[list[Tensor], ...]
Losses = dict[str, Tensor]
# Receives the predictions for a replica, its objects and its `metas`
Observer = Callable[[Outs, list[InstanceData], list[dict]], None]


class Replica(NamedTuple):
    """The images of one virtual GPU."""

    inputs: Tensor  # [B, 3, H, W], normalised and padded
    gt: list[InstanceData]
    ignored: list[InstanceData]
    metas: list[dict]


class Piece(NamedTuple):
    """Images of one replica that go through the network together."""

    replica: int  # index
    images: slice


def batch_gradient(
    model: SingleStageDetector,
    batch: LocalBatch,
    micro_batch: int | None = None,
    precision: Precision = DEFAULT_PRECISION,
    observe: Observer | None = None,
) -> Losses:
    """Put the gradient of the whole batch into every parameter's `grad`, the same on all processes.

    Args:
        model: an mmdet single-stage detector in training mode, on its device.
        batch: the replicas of this process.
        micro_batch: most images that have activations at a time; None: all of this process.
        precision: of the network.
        observe: receives the predictions for each replica of this process, without a graph.

    Returns:
        `loss`, the sum, and each loss of the head; means over the replicas of the batch, without a graph

    Raises:
        Diverged: a loss cannot be evaluated, because predictions are not finite.
    """
    model.zero_grad(set_to_none=True)
    replicas = [_preprocessed(model, data) for data in batch.replicas]
    sizes = {replica.inputs.shape[2:] for replica in replicas}
    if len(sizes) > 1 and _mixing_layer(model):
        replicas = _padded_alike(replicas)
    images = [len(replica.inputs) for replica in replicas]
    micro_batch = micro_batch or sum(images)
    passes = passes_of([replica.inputs.shape for replica in replicas], micro_batch)
    step = _Step(model, batch, replicas, passes, precision, observe)
    divisors = getattr(model.bbox_head, "divisors", Divisors.PREDICTIONS)
    if divisors is Divisors.PREDICTIONS or max(images) > micro_batch:
        losses = _all_together(step, keep_activations=sum(images) <= micro_batch)
    else:
        losses = _one_after_another(step, divisors)
    return _sum_losses(losses)


def require_separable(model: nn.Module, batch_size: int, micro_batch: int | None) -> None:
    """Refuse a model whose predictions depend on which images go together, if a batch is split.

    Args:
        model: in training mode.
        batch_size: images of a whole batch.
        micro_batch: as for `batch_gradient`.

    Raises:
        RuntimeError: a layer mixes images, or draws random numbers.
    """
    at_once = min(micro_batch or batch_size, math.ceil(batch_size / get_world_size()))
    if at_once >= batch_size:
        return
    if layer := _mixing_layer(model):
        raise RuntimeError(
            f"{layer} makes a prediction depend on which images are computed together, so {at_once} of "
            f"{batch_size} at a time would train something else: give the whole batch to one process (gpus=1 "
            "and no micro_batch), or freeze the layer (model.backbone.norm_eval=true, or frozen_stages) in "
            "the run's configuration"
        )


def _mixing_layer(model: nn.Module) -> str | None:
    """Name and class of a layer that mixes images, or draws random numbers; None without one."""
    for name, module in model.named_modules():
        mixes = isinstance(module, _BatchNorm) and (module.training or module.running_mean is None)
        if mixes or (isinstance(module, _DropoutNd) and module.training and module.p > 0):
            return f"{name} ({type(module).__name__})"
    return None


def passes_of(shapes: Sequence[Sequence[int]], micro_batch: int) -> list[list[Piece]]:
    """The passes through the network: replicas of one size together, or a piece of a large replica.

    Args:
        shapes: [B, 3, H, W] of each replica.
        micro_batch: most images in a pass.
    """
    passes: list[list[Piece]] = []
    open_passes: dict[tuple[int, ...], tuple[list[Piece], int]] = {}  # by size, with the images in it
    for replica, (images, *size) in enumerate(shapes):
        for start in range(0, images, micro_batch):
            stop = min(start + micro_batch, images)
            pieces, filled = open_passes.get(tuple(size), ([], micro_batch))
            if filled + stop - start > micro_batch:
                pieces, filled = [], 0
                passes.append(pieces)
            pieces.append(Piece(replica, slice(start, stop)))
            open_passes[tuple(size)] = pieces, filled + stop - start
    return passes


def predict(model: SingleStageDetector, inputs: Tensor, precision: Precision = DEFAULT_PRECISION) -> Outs:
    """The head's predictions for images [B, 3, H, W], in float32 or more, so that losses are too."""
    if precision != "bf16":
        return model.bbox_head(model.extract_feat(inputs))
    if inputs.device.type == "cuda":
        inputs = inputs.contiguous(memory_format=torch.channels_last)
    with torch.autocast(inputs.device.type, torch.bfloat16):
        outs = model.bbox_head(model.extract_feat(inputs))
    return tuple([single_at_least(level) for level in kind] for kind in outs)


@dataclass(frozen=True)
class _Step:
    """What one call of `batch_gradient` works on."""

    model: SingleStageDetector
    batch: LocalBatch
    replicas: list[Replica]
    passes: list[list[Piece]]
    precision: Precision
    observe: Observer | None

    def predict(self, pieces: Sequence[Piece]) -> list[Outs]:
        """Predictions for each piece of a pass."""
        inputs = [self.replicas[piece.replica].inputs[piece.images] for piece in pieces]
        if len(inputs) == 1:
            return [predict(self.model, inputs[0], self.precision)]
        outs = predict(self.model, torch.cat(inputs), self.precision)
        sizes = [len(part) for part in inputs]
        levels = [[level.split(sizes) for level in kind] for kind in outs]  # of each piece
        return [tuple([level[i] for level in kind] for kind in levels) for i in range(len(sizes))]

    def losses(self, index: int, outs: Outs) -> Losses:
        """Losses of one replica and their sum, `loss`.

        Raises:
            Diverged: they cannot be evaluated, because predictions are not finite.
        """
        _, gt, ignored, metas = self.replicas[index]
        try:
            losses = self.model.parse_losses(self.model.bbox_head.loss_by_feat(*outs, gt, metas, ignored))[1]
            if self.observe:
                self.observe(tuple([level.detach() for level in kind] for kind in outs), gt, metas)
        except (ValueError, RuntimeError) as error:
            # PAA cannot even evaluate its loss on such numbers
            if all(level.isfinite().all() for level in chain.from_iterable(outs)):
                raise
            raise Diverged(f"predictions are not finite ({error})") from error
        return losses

    def backward(self, losses: Sequence[Losses]) -> None:
        """Add the gradient of replicas of this process, each with its share of the batch's mean."""
        if self.batch.counts:
            (torch.stack([each["loss"] for each in losses]).sum() / self.batch.number).backward()

    def mean(self, values: Sequence[Tensor]) -> Tensor:
        """The mean over the batch of the values that the replicas of this process give."""
        # First divided, in their own type, as in mmdet
        total = torch.stack([value.detach() / self.batch.number for value in values]).sum(0)
        total *= self.batch.counts
        all_reduce(total)
        return total

    def mean_losses(self, losses: Sequence[Losses]) -> Losses:
        """This process's share of the mean losses of the batch."""
        share = self.batch.counts / self.batch.number
        return {
            name: torch.stack([each[name].detach() for each in losses]).sum() * share for name in losses[0]
        }


def _preprocessed(model: SingleStageDetector, collated: Collated) -> Replica:
    """A replica on the device, padded to the largest of its images."""
    data = model.data_preprocessor(collated, training=True)
    return Replica(data["inputs"], *unpack_gt_instances(data["data_samples"]))


def _padded_alike(replicas: Sequence[Replica]) -> list[Replica]:
    """The replicas, padded below and at the right to the size of the largest."""
    height, width = (max(replica.inputs.shape[side] for replica in replicas) for side in (2, 3))
    padded = []
    for replica in replicas:
        below, right = height - replica.inputs.shape[2], width - replica.inputs.shape[3]
        inputs = nn.functional.pad(replica.inputs, (0, right, 0, below))
        metas = [meta | {"batch_input_shape": (height, width)} for meta in replica.metas]
        padded.append(replica._replace(inputs=inputs, metas=metas))
    return padded


def _one_after_another(step: _Step, divisors: Divisors) -> Losses:
    """Gradient and losses, pass after pass; one of them has activations at a time."""
    head, handed_over, losses = step.model.bbox_head, [], []
    known = _known_divisors(step) if divisors is Divisors.TARGETS else []
    of_pass: list[Losses] = []
    for pieces in step.passes:
        if of_pass:
            step.backward(of_pass)
        of_pass = []
        for piece, outs in zip(pieces, step.predict(pieces), strict=True):
            values: list[Tensor] = []

            def mean(value: Tensor, values: list[Tensor] = values) -> Tensor:
                values.append(value)
                if divisors is Divisors.SHARED:
                    return torch.ones_like(value)
                if len(values) > len(known):
                    raise _wrongly_declared(head, divisors)
                return known[len(values) - 1].to(value, copy=True)  # heads change it in place

            with averaging(head, mean):
                of_pass.append(step.losses(piece.replica, outs))
            if len(values) != (1 if divisors is Divisors.SHARED else len(known)):
                raise _wrongly_declared(head, divisors)
            handed_over += values
        losses += [{name: loss.detach() for name, loss in each.items()} for each in of_pass]
    mean_losses, factor = step.mean_losses(losses), None
    if divisors is Divisors.SHARED:
        number = step.mean(handed_over)
        factor = (head.divisor(torch.ones_like(number)) / head.divisor(number)).flatten()[0]
        mean_losses = {name: loss * factor for name, loss in mean_losses.items()}
    with summed_over_processes(step.model, factor):
        step.backward(of_pass)
    return mean_losses


def _wrongly_declared(head: nn.Module, divisors: Divisors) -> TypeError:
    return TypeError(
        f"{type(head).__name__}: its `divisors` are {divisors.name}, which does not fit how often its loss "
        "calls `reduce_mean`; see tood/models/common/divisors.py"
    )


def _known_divisors(step: _Step) -> list[Tensor]:
    """The means over the batch that targets decide, in the order of the loss's calls of `reduce_mean`."""
    head = step.model.bbox_head
    of_replicas = []
    for inputs, gt, _, metas in step.replicas:
        height, width = inputs.shape[-2:]
        grids = [(math.ceil(height / y), math.ceil(width / x)) for x, y in head.prior_generator.strides]
        of_replicas.append(head.divisors_from_targets(grids, gt, metas, inputs))
    return [step.mean(values) for values in zip(*of_replicas, strict=True)]


def _all_together(step: _Step, keep_activations: bool) -> Losses:
    """Predict every replica first, then evaluate all losses together."""
    predicted: list[list[Outs]] = [[] for _ in step.replicas]
    with torch.set_grad_enabled(keep_activations):
        for pieces in step.passes:
            for piece, outs in zip(pieces, step.predict(pieces), strict=True):
                predicted[piece.replica].append(outs)
    of_replicas = [_joined(pieces) for pieces in predicted]
    if not keep_activations:
        for level in chain.from_iterable(chain.from_iterable(of_replicas)):
            level.requires_grad_(level.is_floating_point())

    def evaluate(index: int) -> Losses:
        return step.losses(index, of_replicas[index])

    losses = evaluate_side_by_side(len(step.replicas), evaluate, step.mean, step.model.bbox_head)
    mean_losses = step.mean_losses(losses)

    def send_back(pieces: Sequence[Piece]) -> None:
        again = [
            (level, leaf.grad[piece.images])
            for piece, outs in zip(pieces, step.predict(pieces), strict=True)
            for kind, leaves in zip(outs, of_replicas[piece.replica], strict=True)
            for level, leaf in zip(kind, leaves, strict=True)
            if level.requires_grad and leaf.grad is not None
        ]
        torch.autograd.backward([level for level, _ in again], [gradient for _, gradient in again])

    if keep_activations or not step.batch.counts:
        with summed_over_processes(step.model):
            step.backward(losses)
        return mean_losses
    step.backward(losses)
    for pieces in step.passes[:-1]:
        send_back(pieces)
    with summed_over_processes(step.model):
        send_back(step.passes[-1])
    return mean_losses


def _joined(pieces: Sequence[Outs]) -> Outs:
    """The predictions for a whole replica."""
    if len(pieces) == 1:
        return pieces[0]
    return tuple(
        [torch.cat(level) for level in zip(*kind, strict=True)] for kind in zip(*pieces, strict=True)
    )


def _sum_losses(losses: Losses) -> Losses:
    """Sum losses over the processes."""
    if get_world_size() == 1:
        return losses
    total = torch.stack([loss.double() for loss in losses.values()])
    all_reduce(total)
    return dict(zip(losses, total, strict=True))
