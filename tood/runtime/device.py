"""The device to compute on; imports little but torch, so that a check of the device is quick."""

import functools
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from filelock import FileLock

from tood.runtime.locks import try_lock
from tood.runtime.ranks import launched, on_this_machine

# What to do where all GPUs are older than torch was compiled for
OLDER_BUILD = "`make TORCH=cu126` installs a build of torch for older GPUs"
_MOST_ON_ONE = 64  # processes that share a GPU and still count as such

_ARCHITECTURE = re.compile(r"(sm|compute)_(\d+)(\d)([af]?)")  # kind, major, minor, variant

# Locks of the GPUs that this process, or its ranks on this machine, compute on
_HELD: list[FileLock] = []


def choose_device(wanted: str) -> torch.device:
    """The device for "auto" (a GPU if one can be used), "cpu" or "cuda"; a GPU becomes the current device.

    Float32 then means float32 on it, see `allow_tf32`. A process asks once and gets the same GPU ever after.

    Raises:
        RuntimeError: `wanted` is "cuda", and torch can use no GPU; or there are more processes of one
            training on this machine than GPUs.
    """
    if wanted == "cpu":
        return torch.device("cpu")
    usable, problems = usable_gpus()
    if not usable:
        why = "; ".join([*problems, OLDER_BUILD]) if problems else "torch finds none"
        if wanted == "cuda":
            raise RuntimeError(
                f"the study needs a GPU, and none can be used: {why} (`tood doctor` says more); to compute "
                "on the CPU, which at scale paper is fast enough for a few iterations, pass "
                "--config device=cpu"
            )
        if problems:
            print(f"no GPU can be used, so the CPU computes: {why}", file=sys.stderr, flush=True)
        return torch.device("cpu")
    device = torch.device("cuda", _own_gpu(tuple(usable)))
    torch.cuda.set_device(device)
    allow_tf32(False)
    return device


def allow_tf32(allowed: bool) -> None:
    """Whether a GPU may round what it multiplies to TF32, 11 binary digits of 24.

    It holds for convolutions and for products of matrices. By itself torch allows it in the former alone.
    """
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = allowed


def has_code_for(capability: tuple[int, int], architectures: Sequence[str]) -> bool:
    """Whether code compiled for some architectures runs on a GPU of a compute capability.

    Machine code, `sm_XY`, runs on GPUs with the major version X and a minor one of Y or more. PTX,
    `compute_XY`, is compiled for any GPU from X.Y on when it is loaded. With the suffix `a` both are for X.Y
    alone, and with `f` for GPUs of the major version. (CUDA C++ Programming Guide, compute capabilities.)

    Args:
        capability: (major, minor), as `torch.cuda.get_device_capability` gives it.
        architectures: as `torch.cuda.get_arch_list` gives them. Other names, such as those of AMD's GPUs, say
            nothing of NVIDIA's numbers; with these alone any GPU counts.
    """
    matches = [match for name in architectures if (match := _ARCHITECTURE.fullmatch(name))]
    for match in matches:
        kind, variant, own = match[1], match[4], (int(match[2]), int(match[3]))
        if capability == own:
            return True
        same_major = capability[0] == own[0] and capability > own
        if (same_major and variant != "a") or (kind == "compute" and not variant and capability > own):
            return True
    return not matches


def usable_gpus() -> tuple[list[int], list[str]]:
    """The indices of the GPUs for which torch has code, and what is wrong with each of the others."""
    if not torch.cuda.is_available():
        return [], []
    usable, problems = [], []
    for index in range(torch.cuda.device_count()):
        if problem := gpu_problem(index):
            problems.append(problem)
        else:
            usable.append(index)
    return usable, problems


def gpu_problem(index: int) -> str | None:
    """Why torch cannot compute on a GPU although it sees it; None if it can."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of old GPUs in several lines for each
        capability = torch.cuda.get_device_capability(index)
        architectures = torch.cuda.get_arch_list()
    if has_code_for(capability, architectures):
        return None
    return (
        f"GPU {index} ({torch.cuda.get_device_name(index)}) has compute capability "
        f"{'.'.join(map(str, capability))}, and torch {torch.__version__} is compiled for "
        f"{' '.join(architectures)}"
    )


@functools.cache  # of each process
def _own_gpu(usable: tuple[int, ...]) -> int:
    """The GPU of this process. The processes of one training on a machine each get another."""
    if launched() == 1:
        return take_gpus(usable, 1)[0]
    # One of them takes all, as each by itself could not tell which of the others are its siblings.
    return on_this_machine(lambda number: take_gpus(usable, number))


def take_gpus(usable: Sequence[int], number: int) -> list[int]:
    """Different GPUs, first those that no other process of this user holds; they are held until the end.

    Snakemake counts GPUs but does not assign one to a job, so parallel jobs would all take the first. Where
    all are held, those with the fewest holders are shared. Where none can be locked, the first are taken.

    Args:
        usable: indices of GPUs.
        number: of GPUs to take.

    Raises:
        RuntimeError: there are not as many.
    """
    if number > len(usable):
        raise RuntimeError(
            f"{number} processes of one training need a GPU each, and this machine has {len(usable)} that "
            f"can be used; set gpus={len(usable)}"
        )
    taken: list[int] = []
    for place in range(_MOST_ON_ONE):  # a GPU with n holders is passed over n times
        for index in usable:
            if index not in taken and len(taken) < number and _hold(index, place):
                taken.append(index)
    return [*taken, *(index for index in usable if index not in taken)][:number]


def _hold(index: int, place: int) -> bool:
    """Take one of the places on a GPU for this process; False if it is not free, or cannot be locked."""
    # By number, as a container may run under a user without a name
    name = f"tood-gpu-{os.getuid()}-{torch.cuda.get_device_properties(index).uuid}-{place}.lock"
    try:
        lock = try_lock(Path(tempfile.gettempdir()) / name)
    except OSError:  # no folder for it, or another user's file in its place
        return False
    if lock:
        _HELD.append(lock)
    return lock is not None


def describe(device: torch.device, number: int) -> str:
    """The name of a device, such as "cpu", or "NVIDIA H200 x2" for two of them."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return name if number == 1 else f"{name} x{number}"
