"""The gradient of a batch whose losses are sums over images, each divided by a sum over images, part by part.

What divides a loss of one part is the sum over the whole batch (`NormalisedLossMixin`). There are three ways
to it, the first that a head allows at present:

1. all losses have one divisor: the gradient is divided in the end;
2. targets alone decide the divisors: they are computed before the first part;
3. predictions decide them: all parts but the first are predicted once more, before, without activations.

No process ever holds predictions of another, and only one part has activations at a time.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from mmdet.models.detectors import SingleStageDetector
from mmdet.models.utils import unpack_gt_instances
from mmdet.structures import DetDataSample
from mmengine.dist import all_reduce
from mmengine.structures import InstanceData
from torch import Tensor

from tood.models.common.normalised_loss import BatchNormalisers, NormalisedLossMixin
from tood.models.common.precision import single_at_least
from tood.study.jobs import DEFAULT_PRECISION, Precision

# What a dense head's forward returns: maps [B, channels, H, W], by kind and level.
Outs = tuple[list[Tensor], ...]


class Batch(NamedTuple):
    """One batch, wherever it was computed."""

    losses: dict[str, Tensor]  # `loss`, their sum, and each loss of the head; of the whole batch
    outs: Outs  # predictions for this process's images; empty if it has none
    gt: list[InstanceData]  # objects of each of these images
    metas: list[dict]  # of each of these images


def predict(model: SingleStageDetector, inputs: Tensor, precision: Precision = DEFAULT_PRECISION) -> Outs:
    """What the head says of images [B, 3, H, W], in float32 at least, so that losses are."""
    if precision == "float32":
        return model.bbox_head(model.extract_feat(inputs))
    if inputs.device.type == "cuda":
        inputs = inputs.contiguous(memory_format=torch.channels_last)
    with torch.autocast(inputs.device.type, torch.bfloat16):
        outs = model.bbox_head(model.extract_feat(inputs))
    return tuple([single_at_least(level) for level in kind] for kind in outs)


def joined(predicted: Sequence[Outs]) -> Outs:
    """Predictions of several passes as one, without their graph."""
    return tuple(
        [torch.cat([t.detach() for t in level]) for level in zip(*kind, strict=True)]
        for kind in zip(*predicted, strict=True)
    )


def gradient_in_parts(
    model: SingleStageDetector,
    parts: Sequence[Tensor],
    samples: list[DetDataSample],
    precision: Precision = DEFAULT_PRECISION,
) -> Batch:
    """Put this process's share of the gradient of the batch's loss into every parameter's `grad`.

    Args:
        model: its head is a `NormalisedLossMixin`.
        parts: this process's images, [B, 3, H, W] for each forward pass, none if it has no image.
        samples: of these images.
        precision: of the network.
    """
    head: NormalisedLossMixin = model.bbox_head
    gts, ignored, metas = unpack_gt_instances(samples)
    starts = [sum(map(len, parts[:i])) for i in range(len(parts))]
    images = [slice(start, start + len(part)) for start, part in zip(starts, parts, strict=True)]
    found: dict[str, Tensor] = {}  # normalisers of this process's images

    def loss_of(outs: Outs, part: slice) -> dict[str, Tensor]:
        losses = model.bbox_head.loss_by_feat(*outs, gts[part], metas[part], ignored[part])
        return model.parse_losses(losses)[1]

    def collect(normalisers: dict[str, Tensor]) -> dict[str, Tensor]:
        _add(found, normalisers)
        return {name: torch.ones_like(normaliser) for name, normaliser in normalisers.items()}

    first = predict(model, parts[0], precision) if parts else None
    afterwards = head.has_one_divisor
    if first is not None and not afterwards:
        known = head.normalisers_from_targets(first, gts, metas)
        found.update(known or {})
        if known is None:
            with torch.no_grad(), _divided(head, collect):
                for i, part in enumerate(parts):
                    loss_of(predict(model, part, precision) if i else first, images[i])
    sums = {} if afterwards else _over_processes(found, head.loss_names, model)

    losses: dict[str, Tensor] = {}
    predicted = []
    with _divided(head, collect if afterwards else lambda normalisers: sums):
        for i, part in enumerate(parts):
            outs = predict(model, part, precision) if i or first is None else first
            first = None  # its activations go with the pass
            loss = loss_of(outs, images[i])
            loss["loss"].backward()
            _add(losses, {name: value.detach() for name, value in loss.items()})
            predicted.append(joined([outs]))
            del outs, loss
    losses = _over_processes(losses, ("loss", *head.loss_names), model)
    if afterwards:
        name = head.loss_names[0]
        total = _over_processes(found, head.loss_names, model)[name]
        factor = head.divisor(name, torch.ones_like(total)) / head.divisor(name, total)
        losses = {name: loss * factor for name, loss in losses.items()}
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(factor)
    return Batch(losses, joined(predicted), gts, metas)


@contextmanager
def _divided(head: NormalisedLossMixin, normalisers: BatchNormalisers) -> Iterator[None]:
    head.batch_normalisers = normalisers
    try:
        yield
    finally:
        del head.batch_normalisers  # the class has its own


def _add(sums: dict[str, Tensor], values: dict[str, Tensor]) -> None:
    for name, value in values.items():
        sums[name] = sums[name] + value if name in sums else value


def _over_processes(
    values: dict[str, Tensor], names: Sequence[str], model: SingleStageDetector
) -> dict[str, Tensor]:
    """The sums over all processes, of which one without images has no values."""
    zero = next(model.parameters()).new_zeros((), dtype=torch.float64)
    total = torch.stack([values.get(name, zero).to(zero) for name in names])
    all_reduce(total)
    return dict(zip(names, total, strict=True))
