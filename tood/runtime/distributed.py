"""Several processes that train one model: how they find each other and share a batch.

`torchrun` starts them and tells each by environment variables which it is. Without these there is one
process, and nothing here does anything. Only the main one (rank 0) writes files.
"""

import os
from collections.abc import Sequence
from typing import TypeVar

import torch
from mmengine.dist import all_reduce, get_rank, get_world_size
from torch import distributed

_Item = TypeVar("_Item")


def launched() -> int:
    """How many processes `torchrun` started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this is the process that writes files, also before `join`."""
    return int(os.environ.get("RANK", "0")) == 0


def join(device: torch.device) -> None:
    """Wait for the other processes, each with the device that `choose_device` gave it."""
    if launched() == 1:
        return
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")


def own_share(batch: Sequence[_Item]) -> Sequence[_Item]:
    """This process's contiguous part of a batch; empty where the images do not suffice for all."""
    rank, processes = get_rank(), get_world_size()
    return batch[len(batch) * rank // processes : len(batch) * (rank + 1) // processes]


def any_process(flag: bool, device: torch.device) -> bool:
    """Whether the flag is set in any process; all of them get the same answer."""
    if get_world_size() == 1:
        return flag
    flags = torch.tensor([int(flag)], device=device)
    all_reduce(flags, "max")
    return bool(flags.item())
