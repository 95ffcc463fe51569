"""A training step on a device that this machine lacks: shapes and devices are computed, values are not."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

# torch has autograd for it without a driver, and no kernel. It stands for a GPU in `backward`.
DRIVERLESS = "lazy:0"
Move = Callable[[Tensor], Tensor]


@contextmanager
def fake(device: str) -> Iterator[Move]:
    """Every tensor is fake, and `backward` works on `DRIVERLESS`; gives what moves a tensor to the device."""
    with FakeTensorMode() as mode, torch.autograd.set_multithreading_enabled(False):
        yield lambda tensor: mode.from_tensor(tensor).to(device)


def move(model: nn.Module, to: Move) -> None:
    """Parameters and buffers; `nn.Module.to` exchanges tensors in a way that fake ones refuse."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(to(parameter.detach()), parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = to(buffer)


def moved(data: dict, to: Move) -> dict:
    """A batch as the preprocessor gives it, on the device."""
    for sample in data["data_samples"]:
        for kind in ("gt_instances", "ignored_instances"):
            objects = getattr(sample, kind)
            there = InstanceData(bboxes=to(objects.bboxes), labels=to(objects.labels))
            setattr(sample, kind, there)
    return {"inputs": to(data["inputs"]), "data_samples": data["data_samples"]}


class Preprocessed(nn.Module):
    """Stands for a preprocessor whose result is there."""

    def __init__(self, data: dict) -> None:
        super().__init__()
        self.data = data

    def forward(self, share: dict, training: bool) -> dict:
        return self.data


class CopiesFromHost(TorchDispatchMode):
    """Shapes of the tensors that are copied to the device in a way for which the host waits."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        if function.overloadpacket == torch.ops.aten._to_copy:
            there = args[0].device.type == "cpu" and result.device.type != "cpu"
            if there and not kwargs.get("non_blocking"):
                self.shapes.add(tuple(result.shape))
        return result
