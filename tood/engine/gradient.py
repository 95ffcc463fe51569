"""The gradient of one batch, the same however its images are spread over GPUs and forward passes.

A dense head's loss is no sum over images: it is divided by sums over the whole batch, and some heads weigh
samples by their rank among all of it. Averaging the gradients of parts is therefore another gradient. Here
the head's loss is evaluated on its predictions for the whole batch, wherever these were computed:

1. every image is padded to the size that the whole batch would have;
2. each process predicts its own images, a few at a time if need be, then without keeping activations;
3. the predictions of all processes are put together, and every process evaluates the same loss on them;
4. each process sends the gradient of its own predictions back through the network, computing those again
   whose activations were not kept (gradient caching: Gao et al., RepL4NLP 2021, arXiv:2101.06983);
5. the gradients of the parameters are summed over the processes.

A head whose losses are sums over images, divided by sums over images, needs neither all predictions in one
place nor, if its divisors are known before or are one, a second computation: see `tood.engine.parts`.

Some reference implementations divide by sums over the images of one GPU, and average the gradients of the
GPUs. Their recipes give this number of images as `train.loss_group`: the loss is then the mean over groups of
consecutive images of the batch, of which the last may have fewer. Groups are formed in step 3, so they are
the same on any number of processes and passes.

This is exact as long as the prediction for an image depends on that image alone, and is the same twice.
"""

from collections.abc import Iterator, Sequence
from itertools import chain

import torch
import torch.nn.functional as F
from mmdet.models.detectors import SingleStageDetector
from mmdet.models.utils import unpack_gt_instances
from mmdet.structures import DetDataSample
from mmengine.dist import all_gather_object, all_reduce, all_reduce_params, get_rank, get_world_size
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from tood.engine.parts import Batch, Outs, gradient_in_parts, joined, predict
from tood.models.common.normalised_loss import NormalisedLossMixin
from tood.runtime.failures import Diverged
from tood.study.jobs import DEFAULT_PRECISION, Precision

_BUCKET_MB = 64  # of gradients that travel together


def require_separable(model: nn.Module, batch_size: int, images_at_once: int) -> None:
    """Refuse a model whose predictions depend on which images go together, where they are not all together.

    Args:
        model: in training mode.
        batch_size: images of a whole batch.
        images_at_once: in one forward pass of one process.

    Raises:
        RuntimeError: a layer mixes images, or draws random numbers.
    """
    if get_world_size() == 1 and images_at_once >= batch_size:
        return
    for name, module in model.named_modules():
        mixes = isinstance(module, _BatchNorm) and (module.training or module.running_mean is None)
        if mixes or (isinstance(module, _DropoutNd) and module.training and module.p > 0):
            raise RuntimeError(
                f"{name} ({type(module).__name__}) makes a prediction depend on which images are computed "
                f"together, so {images_at_once} of {batch_size} at a time would train something else: give "
                "the whole batch to one process (gpus=1 and no micro_batch), or freeze the layer "
                "(model.backbone.norm_eval=true, or frozen_stages) in the run's configuration"
            )


def batch_gradient(
    model: SingleStageDetector,
    share: dict | None,
    images_at_once: int,
    loss_group: int | None = None,
    precision: Precision = DEFAULT_PRECISION,
) -> Batch:
    """Put the gradient of the whole batch's loss into every parameter's `grad`, on all processes alike.

    Args:
        model: an mmdet single-stage detector in training mode, on its device.
        share: this process's part of the batch as the loader collates it, None if it has no image.
        images_at_once: largest number of images in one forward pass.
        loss_group: number of images whose loss is evaluated together; None takes the whole batch.
        precision: of the network.

    Raises:
        Diverged: the loss cannot be evaluated, as predictions are not finite.
    """
    model.zero_grad(set_to_none=True)
    if share is not None and get_world_size() == 1 and len(share["inputs"]) <= images_at_once:
        data = model.data_preprocessor(share, training=True)
        outs = predict(model, data["inputs"], precision)
        batch = evaluate_loss(model, outs, data["data_samples"], loss_group)
        batch.losses["loss"].backward()
        return batch

    inputs, samples, start = _preprocess(model, share)
    parts_of_share = inputs.split(images_at_once) if inputs is not None else ()
    own = slice(start, start + (len(inputs) if inputs is not None else 0))
    if isinstance(model.bbox_head, NormalisedLossMixin) and loss_group is None:
        batch = gradient_in_parts(model, parts_of_share, samples[own], precision)
        _sum_gradients(model)
        return batch
    keep_activations = len(parts_of_share) == 1
    with torch.set_grad_enabled(keep_activations):
        predicted = [predict(model, part, precision) for part in parts_of_share]
    whole = _gather_outs(predicted, own, samples)

    batch = evaluate_loss(model, whole, samples, loss_group)
    batch.losses["loss"].backward()
    if get_rank() > 0:  # what the loss itself uses of the parameters counts once
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad.zero_()

    for part, outs in zip(parts_of_share, predicted, strict=True):
        outs = outs if keep_activations else predict(model, part, precision)
        _backpropagate(outs, whole, slice(start, start + len(part)))
        start += len(part)
    _sum_gradients(model)
    outs = tuple([level[own] for level in kind] for kind in whole)
    return batch._replace(outs=outs, gt=batch.gt[own], metas=batch.metas[own])


def evaluate_loss(
    model: SingleStageDetector, outs: Outs, samples: list[DetDataSample], loss_group: int | None
) -> Batch:
    """The loss of a batch, the mean over its loss groups.

    Args:
        model: as in `batch_gradient`.
        outs: predictions of its head for all images.
        samples: all images.
        loss_group: as in `batch_gradient`.

    Raises:
        Diverged: the loss cannot be evaluated, as predictions are not finite.
    """
    gt, ignored, metas = unpack_gt_instances(samples)
    size = loss_group or len(samples)
    parts = []
    try:
        for start in range(0, len(samples), size):
            group = slice(start, start + size)
            maps = tuple([level[group] for level in kind] for kind in outs)
            losses = model.bbox_head.loss_by_feat(*maps, gt[group], metas[group], ignored[group])
            parts.append(model.parse_losses(losses)[1])
    except (ValueError, RuntimeError) as error:
        # Some heads cannot even evaluate their loss on such numbers, PAA and FreeAnchor among them.
        if all(tensor.isfinite().all() for tensor in _flat(outs)):
            raise
        raise Diverged(f"predictions are not finite ({error})") from error
    losses = {name: sum(part[name] for part in parts) / len(parts) for name in parts[0]}
    return Batch(losses, outs, gt, metas)


def _preprocess(
    model: SingleStageDetector, share: dict | None
) -> tuple[Tensor | None, list[DetDataSample], int]:
    """This process's images, padded as in the whole batch; all samples; where this process's begin."""
    data = None if share is None else model.data_preprocessor(share, training=True)
    if data is not None and get_world_size() == 1:
        return data["inputs"], data["data_samples"], 0
    own = ([], None) if data is None else ([s.cpu() for s in data["data_samples"]], data["inputs"].shape[-2:])
    shares = all_gather_object(own)
    height, width = (max(size[axis] for _, size in shares if size) for axis in (0, 1))
    device = next(model.parameters()).device
    samples = [sample.to(device) for group, _ in shares for sample in group]
    start = sum(len(group) for group, _ in shares[: get_rank()])
    for sample in samples:
        sample.set_metainfo({"batch_input_shape": (height, width)})
    if data is None:
        return None, samples, start
    inputs = data["inputs"]
    padding = (0, width - inputs.shape[-1], 0, height - inputs.shape[-2])
    return F.pad(inputs, padding, value=model.data_preprocessor.pad_value), samples, start


def _gather_outs(predicted: list[Outs], images: slice, samples: Sequence) -> Outs:
    """The whole batch's predictions as leaves of a new graph.

    Args:
        predicted: of this process, for each of its forward passes.
        images: of this process.
        samples: of the whole batch.
    """
    own = joined(predicted)
    if get_world_size() > 1:
        described = [[(tuple(t.shape[1:]), t.dtype, t.device.type) for t in kind] for kind in own]
        layout = next(each for each in all_gather_object(described) if each)
        whole = tuple(
            [torch.zeros(len(samples), *shape, dtype=dtype, device=device) for shape, dtype, device in kind]
            for kind in layout
        )
        for mine, tensor in zip(_flat(own), _flat(whole), strict=False):
            tensor[images] = mine
        for tensor in _flat(whole):
            all_reduce(tensor)  # to zeros, hence exact, whatever the sizes of the shares
    else:
        whole = own
    for tensor in _flat(whole):
        tensor.requires_grad_(tensor.is_floating_point())
    return whole


def _flat(outs: Outs) -> Iterator[Tensor]:
    return chain.from_iterable(outs)


def _backpropagate(outs: Outs, whole: Outs, images: slice) -> None:
    """Send the gradient of `whole` at these images back through the graph of `outs`."""
    pairs = [
        (tensor, leaf.grad[images])
        for tensor, leaf in zip(_flat(outs), _flat(whole), strict=True)
        if tensor.requires_grad and leaf.grad is not None
    ]
    tensors, gradients = zip(*pairs, strict=True)
    torch.autograd.backward(tensors, gradients)


def _sum_gradients(model: nn.Module) -> None:
    """Sum the parameters' gradients over the processes; one that no process has stays None."""
    if get_world_size() == 1:
        return
    parameters = [p for p in model.parameters() if p.requires_grad]
    present = torch.tensor([p.grad is not None for p in parameters], dtype=torch.uint8)
    present = present.to(parameters[0].device)
    all_reduce(present, "max")
    used = [p for p, flag in zip(parameters, present.tolist(), strict=True) if flag]
    for parameter in used:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    all_reduce_params([p.grad for p in used], bucket_size_mb=_BUCKET_MB)
