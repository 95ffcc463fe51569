"""The sum of gradients over processes, computed while the backward pass still runs."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager

import torch
from mmengine.dist import get_world_size
from torch import Tensor, distributed, nn

BUCKET_MB = 16  # of gradients that are sent together


@contextmanager
def summed_over_processes(model: nn.Module, factor: Tensor | None = None) -> Generator[None]:
    """Run the last backward pass of a step inside this; then every `grad` is the sum over all processes.

    Gradients are sent in buckets, beginning with the model's last layers, each as soon as the pass has filled
    it. A parameter without a gradient in any process keeps None. All processes must call this, even if their
    passes use different parts of the model, or if a process has no pass.

    Args:
        model: its parameters already have the gradients of earlier passes.
        factor: multiplies each process's gradient before the sum.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    if get_world_size() == 1:
        yield
        if factor is not None:
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.grad.mul_(factor)
        return
    queue = _Queue(_buckets(parameters), factor)
    handles = [p.register_post_accumulate_grad_hook(queue.filled) for p in parameters]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    queue.finish()


def _buckets(parameters: Sequence[nn.Parameter]) -> list["_Bucket"]:
    """Parameters of one type each, about as a backward pass reaches them."""
    groups: list[list[nn.Parameter]] = []
    sizes: dict[torch.dtype, int] = {}
    open_groups: dict[torch.dtype, list[nn.Parameter]] = {}
    for parameter in reversed(parameters):
        kind = parameter.dtype
        if kind not in open_groups or sizes[kind] >= BUCKET_MB * 2**20:
            open_groups[kind], sizes[kind] = [], 0
            groups.append(open_groups[kind])
        open_groups[kind].append(parameter)
        sizes[kind] += parameter.numel() * parameter.element_size()
    return [_Bucket(group) for group in groups]


class _Bucket:
    """Gradients that are sent together, each with a flag that says whether it exists."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.parameters = parameters
        self.unfilled = {id(parameter) for parameter in parameters}

    @torch.no_grad()
    def send(self, factor: Tensor | None) -> None:
        """Begin to sum. A gradient that this process lacks counts as 0."""
        self.present = [parameter.grad is not None for parameter in self.parameters]
        parts = []
        for parameter in self.parameters:
            if parameter.grad is None:
                parts.append(torch.zeros_like(parameter).flatten())
            else:
                parts.append((parameter.grad if factor is None else parameter.grad.mul_(factor)).flatten())
        like = self.parameters[0]
        flags = torch.tensor(self.present, dtype=like.dtype, pin_memory=like.is_cuda)
        self.sum = torch.cat([*parts, flags.to(like.device, non_blocking=True)])
        self.work = distributed.all_reduce(self.sum, async_op=True)

    @torch.no_grad()
    def receive(self) -> None:
        """Wait for the sum and put it into the parameters."""
        self.work.wait()
        sizes = [parameter.numel() for parameter in self.parameters]
        *sums, flags = self.sum.split([*sizes, len(sizes)])
        # A gradient of this process exists; the host waits for the flags only for gradients that it lacks.
        anywhere = self.present if all(self.present) else (flags > 0).tolist()
        for parameter, total, there in zip(self.parameters, sums, anywhere, strict=True):
            if not there:
                continue
            if parameter.grad is None:
                parameter.grad = torch.empty_like(parameter)
            parameter.grad.copy_(total.view_as(parameter))


class _Queue:
    """All processes send the buckets in the same order, even if they fill them in another order."""

    def __init__(self, buckets: list[_Bucket], factor: Tensor | None) -> None:
        self.buckets, self.factor, self.sent = buckets, factor, 0
        self.bucket_of = {id(p): bucket for bucket in buckets for p in bucket.parameters}

    def filled(self, parameter: Tensor) -> None:
        """A hook: the last pass has added to the parameter's gradient."""
        self.bucket_of[id(parameter)].unfilled.discard(id(parameter))
        while self.sent < len(self.buckets) and not self.buckets[self.sent].unfilled:
            self._send()

    def finish(self) -> None:
        """Send what the last pass did not fill, and wait for all."""
        while self.sent < len(self.buckets):
            self._send()
        for bucket in self.buckets:
            bucket.receive()

    def _send(self) -> None:
        self.buckets[self.sent].send(self.factor)
        self.sent += 1
