"""Several processes that train one model: how they connect, and how they share a batch.

`torchrun` starts them and sets environment variables with the rank and the world size. Without these there is
one process, and nothing here has an effect. Only rank 0 writes files.
"""

import os
from collections.abc import Sequence
from typing import TypeVar

import torch
from mmengine.dist import all_reduce, get_rank, get_world_size
from torch import distributed

_Item = TypeVar("_Item")


def launched() -> int:
    """The world size that `torchrun` set; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this process is rank 0, also before `join`."""
    return int(os.environ.get("RANK", "0")) == 0


def join(device: torch.device) -> None:
    """Connect the processes; each passes the device that `choose_device` returned to it."""
    if launched() == 1:
        return
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")


def local_batch(batch: Sequence[_Item]) -> Sequence[_Item]:
    """This process's contiguous part of a batch; empty if there are too few items for all processes."""
    rank, world_size = get_rank(), get_world_size()
    return batch[len(batch) * rank // world_size : len(batch) * (rank + 1) // world_size]


def any_process(flag: bool, device: torch.device) -> bool:
    """Whether the flag is set in any process; all processes get the same answer."""
    if get_world_size() == 1:
        return flag
    flags = torch.tensor([int(flag)], device=device)
    all_reduce(flags, "max")
    return bool(flags.item())
