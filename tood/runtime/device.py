"""Where to compute; imports little but torch, so that looking is quick."""

import getpass
import os
import tempfile
from pathlib import Path

import torch
from filelock import FileLock

from tood.runtime.locks import try_lock

# Of the GPUs that this process computes on; the system frees them when it ends, however it ends.
_HELD: list[FileLock] = []


def choose_device(wanted: str) -> torch.device:
    """The device for "auto" (a GPU if there is one), "cpu" or "cuda"; a GPU becomes torch's current one.

    Raises:
        RuntimeError: "cuda" without a GPU that torch can use.
    """
    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise RuntimeError(
            "the study wants a GPU, but torch finds no usable one (`tood doctor` shows what it sees); to go "
            "without, which at scale paper is good for a few iterations, pass --config device=cpu"
        )
    if not available or wanted == "cpu":
        return torch.device("cpu")
    device = torch.device("cuda", free_gpu())
    torch.cuda.set_device(device)
    return device


def free_gpu() -> int:
    """Index of a GPU that no other process of this user has taken here; it stays this process's to the end.

    Snakemake counts GPUs without telling a job which one is its own, so jobs side by side would all take
    the first. Where none is left, the processes share, as on a machine with a single GPU.
    """
    number = torch.cuda.device_count()
    for index in range(number):
        name = f"tood-gpu-{getpass.getuser()}-{torch.cuda.get_device_properties(index).uuid}.lock"
        if lock := try_lock(Path(tempfile.gettempdir()) / name):
            _HELD.append(lock)
            return index
    return int(os.environ.get("LOCAL_RANK", "0")) % number


def describe(device: torch.device, number: int) -> str:
    """The device's name, such as "cpu" or "NVIDIA H200 x2" for two like it."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return name if number == 1 else f"{name} x{number}"
