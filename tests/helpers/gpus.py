"""GPUs as torch shows them, where there are none."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch

ARCHITECTURES = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]  # of torch 2.11 for CUDA 13


def shown(capabilities: Sequence[tuple[int, int]], current: list[torch.device]) -> dict[str, Any]:
    """What stands for functions of `torch.cuda`; each device that is made the current one joins a list."""
    return {
        "is_available": lambda: bool(capabilities),
        "device_count": lambda: len(capabilities),
        "get_device_capability": lambda index: capabilities[index],
        "get_device_name": lambda index: f"Toy {index}",
        "get_device_properties": lambda index: SimpleNamespace(uuid=f"GPU-{index}"),
        "get_arch_list": lambda: ARCHITECTURES,
        "set_device": current.append,
    }
