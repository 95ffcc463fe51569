"""The device to compute on; imports little but torch, so that a check of the device is quick."""

import contextlib
import os
import tempfile
from pathlib import Path

import torch
from filelock import FileLock

from tood.runtime.locks import try_lock

# Locks of the GPUs that this process computes on
_HELD: list[FileLock] = []


def choose_device(wanted: str) -> torch.device:
    """The device for "auto" (a GPU if there is one), "cpu" or "cuda"; a GPU becomes torch's current device.

    Raises:
        RuntimeError: `wanted` is "cuda", and torch can use no GPU.
    """
    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise RuntimeError(
            "the study needs a GPU, but torch finds no usable one (`tood doctor` says more); to compute on "
            "the CPU, which at scale paper is fast enough for a few iterations, pass --config device=cpu"
        )
    if not available or wanted == "cpu":
        return torch.device("cpu")
    device = torch.device("cuda", free_gpu())
    torch.cuda.set_device(device)
    return device


def free_gpu() -> int:
    """Index of a GPU that no other process of this user holds on this machine; it is held until the end.

    Snakemake counts GPUs but does not assign one to a job, so parallel jobs would all take the first. If all
    GPUs are held, or none can be locked, processes share them, as on a machine with a single GPU.
    """
    number = torch.cuda.device_count()
    for index in range(number):
        # By number, as a container may run under a user without a name
        name = f"tood-gpu-{os.getuid()}-{torch.cuda.get_device_properties(index).uuid}.lock"
        with contextlib.suppress(OSError):  # no folder for it, or another user's file in its place
            if lock := try_lock(Path(tempfile.gettempdir()) / name):
                _HELD.append(lock)
                return index
    return int(os.environ.get("LOCAL_RANK", "0")) % number


def describe(device: torch.device, number: int) -> str:
    """The name of a device, such as "cpu", or "NVIDIA H200 x2" for two of them."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return name if number == 1 else f"{name} x{number}"
