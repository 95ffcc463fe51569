"""A GPU that is not there: tensors that hold values on the CPU and say that they are on cuda:0.

Within `gpu()` such tensors come of `.to(DEVICE)` and of `device=DEVICE`, and whatever is computed from them
lies there too. `counting()` notes each operation for which the host would wait for a real GPU:

    with gpu():
        model.to(DEVICE)
        with counting() as waits:
            model.data_preprocessor(data)
    print(waits)

All that waits reaches torch's dispatcher under one of few names, however it was written, in libraries too,
and on the way back through a graph. `if tensor:`, `float()`, `range()` and a slice up to a tensor read a
value (`_local_scalar_dense`); a boolean index is `index` with a boolean tensor; `torch.where` with one
argument is `nonzero`.

Not seen: waits within a kernel of CUDA, of which none is known here that is not listed; for an event; for
other processes. Autocast to half precision leaves these tensors alone.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from tood.study.paths import REPOSITORY

DEVICE = torch.device("cuda", 0)
# What torch's core takes the tensors for. Of devices that are not there, it alone has autograd.
_CORE = torch.device("lazy", 0)
_CPU = torch.device("cpu")

# Operations whose result has a shape that depends on values, or is a value; and what to call them
_VALUES = {
    "_local_scalar_dense": "value read",
    "equal": "value read",
    "allclose": "value read",
    "is_nonzero": "value read",
    "_linalg_check_errors": "value read",
    "multinomial": "value read",
    "histc": "value read",
    "nonzero": "nonzero",
    "masked_select": "boolean index",
    "_unique": "unique",
    "_unique2": "unique",
    "unique_dim": "unique",
    "unique_consecutive": "unique",
    "unique_dim_consecutive": "unique",
    "bincount": "bincount",
    "repeat_interleave": "repeat_interleave without output_size",
    "nms": "nms",
}
_INDEXING = ("index", "_unsafe_index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index_put")
_COPYING = ("_to_copy", "copy_", "copy", "_copy_from", "set_", "lift", "lift_fresh")
_LIBRARIES = ("mmdet", "mmengine", "mmcv", "torchvision")


class Wait(NamedTuple):
    """Something for which the host waits."""

    kind: str
    line: str  # of the project, the innermost
    within: str = ""  # what it called of a library, if anything


class Waits(Counter[Wait]):
    """How often the host waits for what."""

    def __str__(self) -> str:
        lines = [
            f"{number:5}  {kind}  {line}  {within}" for (kind, line, within), number in self.most_common()
        ]
        return "\n".join([f"{self.total():5}  waits", *lines])


_counters: list[Waits] = []
_pinned: dict[int, Tensor] = {}  # by the address of their memory, which they keep


class Spoofed(Tensor):
    """A tensor on `DEVICE`; `values` has the same on the CPU."""

    values: Tensor
    of_number = False  # torch's core made it of a Python number, which on a GPU it leaves on the host

    @staticmethod
    def __new__(cls, values: Tensor) -> "Spoofed":
        return torch.Tensor._make_wrapper_subclass(
            cls,
            values.size(),
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            layout=values.layout,
            device=_CORE,
        )

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def __repr__(self) -> str:
        return f"Spoofed({self.values!r})"

    @property
    def device(self) -> torch.device:
        return DEVICE

    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)

    def tolist(self) -> Any:
        _note("value read")
        return self.values.tolist()

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return _computed(function, args, kwargs or {})

    __torch_function__ = torch._C._disabled_torch_function_impl


class _Mode(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return _computed(function, args, kwargs or {})


@contextmanager
def gpu() -> Iterator[None]:
    """One GPU is there, which computes on the CPU."""
    answers = {
        "_lazy_init": None,
        "is_available": True,
        "device_count": 1,
        "current_device": 0,
        "is_current_stream_capturing": False,
        "max_memory_allocated": 0,
    }
    torch._C._ensureCUDADeviceGuardSet()  # as torch does it for its own fake tensors
    lifting = torch._C._only_lift_cpu_tensors()
    with ExitStack() as stack:
        for name, answer in answers.items():
            stack.enter_context(patch.object(torch.cuda, name, _answering(answer)))
        stack.enter_context(patch.object(Tensor, "pin_memory", _pin))
        stack.enter_context(patch.object(Tensor, "is_pinned", _is_pinned))
        stack.callback(_pinned.clear)
        stack.enter_context(torch.autograd.set_multithreading_enabled(False))  # the mode is of this thread
        stack.callback(torch._C._set_only_lift_cpu_tensors, lifting)
        torch._C._set_only_lift_cpu_tensors(True)  # what is made of a list is copied to the device
        stack.enter_context(_Mode())
        yield


@contextmanager
def counting() -> Iterator[Waits]:
    """Note what the host would wait for within a block; inside `gpu()`."""
    waits = Waits()
    _counters.append(waits)
    try:
        yield waits
    finally:
        _counters.remove(waits)


def _answering(answer: Any) -> Callable[..., Any]:
    return lambda *args, **kwargs: answer


def _pin(tensor: Tensor, *args: Any) -> Tensor:
    pinned = tensor.clone()
    _pinned[pinned.untyped_storage().data_ptr()] = pinned
    return pinned


def _is_pinned(tensor: Tensor, *args: Any) -> bool:
    return not isinstance(tensor, Spoofed) and tensor.untyped_storage().data_ptr() in _pinned


def _computed(function: Any, args: tuple, kwargs: dict) -> Any:
    """The result of an operation, on the device where it has a tensor there or is told to be there."""
    name = function.overloadpacket.__name__
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    spoofed = [tensor for tensor in tensors if isinstance(tensor, Spoofed)]
    told = kwargs.get("device")
    there = bool(spoofed) if told is None else torch.device(told).type != "cpu"
    elsewhere = any(tensor.dim() for tensor in tensors if not isinstance(tensor, Spoofed))
    if spoofed and elsewhere and name not in (*_INDEXING, *_COPYING):
        raise RuntimeError(f"{name}: all tensors are to be on one device, but are on {DEVICE} and {_CPU}")
    if kind := _wait(name, function, args, kwargs, there):
        _note(kind)

    options = dict(kwargs)
    if told is not None:
        options["device"] = _CPU
    pin = options.pop("pin_memory", None) and not there
    result = function(*tree_map(_values, args), **tree_map(_values, options))
    if pin:
        return result.pin_memory()
    if not there:
        return result
    if (changed := _changed(function, args, kwargs)) is not None:
        if torch.Tag.inplace_view in function.tags:
            _reshape_alike(function, args, kwargs)
        return changed
    wrapped = tree_map(lambda value: Spoofed(value) if isinstance(value, Tensor) else value, result)
    if name == "scalar_tensor":
        wrapped.of_number = True
    return wrapped


def _values(value: Any) -> Any:
    return value.values if isinstance(value, Spoofed) else value


def _changed(function: Any, args: tuple, kwargs: dict) -> Any:
    """The argument that an operation changes and returns; None if it does not."""
    returned = function._schema.returns
    if len(returned) != 1 or not (returned[0].alias_info and returned[0].alias_info.is_write):
        return None
    for index, argument in enumerate(function._schema.arguments):
        if argument.alias_info and argument.alias_info.is_write:
            return args[index] if index < len(args) else kwargs[argument.name]
    return None


def _reshape_alike(function: Any, args: tuple, kwargs: dict) -> None:
    """Do to the shape of the tensor itself what was done to its values, as torch does it for such tensors."""
    included = torch._C._meta_in_tls_dispatch_include()
    with no_dispatch():
        torch._C._set_meta_in_tls_dispatch_include(True)
        try:
            function(*args, **kwargs)
        finally:
            torch._C._set_meta_in_tls_dispatch_include(included)


def _wait(name: str, function: Any, args: tuple, kwargs: dict, there: bool) -> str | None:
    """What the host waits for in an operation; None for nothing."""
    if name in ("_to_copy", "copy_"):
        if name == "copy_":
            target, source, *rest = args
            there, quick = isinstance(target, Spoofed), kwargs.get("non_blocking", any(rest))
        else:
            (source,), quick = args, kwargs.get("non_blocking")
        if not source.numel() or there == isinstance(source, Spoofed):
            return None
        if not there:
            return None if quick else "copy to the host"
        # From memory that is not pinned, the driver copies in between
        return None if quick and source.is_pinned() else "copy from the host"
    if name in _INDEXING:
        return _wait_of_index(args) if any(isinstance(a, Spoofed) for a in tree_leaves(args)) else None
    if name in _VALUES and any(isinstance(leaf, Spoofed) for leaf in tree_leaves((args, kwargs))):
        known = function._schema.name == "aten::repeat_interleave" and kwargs.get("output_size") is not None
        return None if known else _VALUES[name]
    return None


def _wait_of_index(args: tuple) -> str | None:
    indices = [index for index in args[1] if index is not None]
    if not all(isinstance(index, Spoofed) for index in indices):
        return "index on the host"
    masks = [index for index in indices if index.dtype in (torch.bool, torch.uint8)]
    if not masks:
        return None
    # Then torch fills where the mask is, if it is told a number
    number = (
        len(args) > 2 and (not isinstance(args[2], Spoofed) or args[2].of_number) and args[2].numel() == 1
    )
    return None if number and len(masks) == len(indices) == 1 and not any(args[3:]) else "boolean index"


def _note(kind: str) -> None:
    if not _counters:
        return
    wait = Wait(kind, *_lines())
    for waits in _counters:
        waits[wait] += 1


def _lines() -> tuple[str, str]:
    """The innermost line of the project, and what it called of a library."""
    project, helpers = f"{REPOSITORY}/", f"{REPOSITORY}/tests/helpers/"
    within, frame = "", sys._getframe(1)
    while frame:
        file, line = frame.f_code.co_filename, frame.f_lineno
        package, _, rest = file.rpartition("site-packages/")[-1].partition("/")
        if file.startswith(project) and not file.startswith(helpers) and "site-packages" not in file:
            return f"{file.removeprefix(project)}:{line}", within
        if package in _LIBRARIES and rest and not within:
            within = f"{package}/{rest}:{line}"
        frame = frame.f_back
    return "elsewhere", within
