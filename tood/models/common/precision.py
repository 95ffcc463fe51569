"""What a head keeps in float32 while its network computes in bfloat16."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

# Device types that have it; to ask `torch.amp.is_autocast_available` would break a compiled graph.
_AUTOCAST = ("cpu", "cuda", "mps", "xpu")


def single_at_least(tensor: Tensor) -> Tensor:
    """float32 for a type of fewer bits; other types stay."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def without_autocast(tensor: Tensor) -> AbstractContextManager:
    """A context in which torch's autocast leaves types as they are, on the device of a tensor.

    Coordinates need it: bfloat16 has 8 binary digits, and the 167th cell of a map is not the 168th.
    """
    kind = tensor.device.type
    if kind not in _AUTOCAST or not torch.is_autocast_enabled(kind):
        return nullcontext()
    return torch.autocast(kind, enabled=False)
