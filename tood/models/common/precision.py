"""What a head keeps in float32 while its network computes in bfloat16."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def single_at_least(tensor: Tensor) -> Tensor:
    """float32 for a type of fewer bits; other types stay."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def without_autocast(tensor: Tensor) -> AbstractContextManager:
    """A context in which torch's autocast leaves types as they are, on the device of a tensor.

    Coordinates need it: bfloat16 has 8 binary digits, and the 167th cell of a map is not the 168th.
    """
    kind = tensor.device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()
