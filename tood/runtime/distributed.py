"""Several processes that train one model: how they connect, and how they share a batch.

Where there is one process, nothing here has an effect.
"""

import os
from collections.abc import Sequence
from typing import TypeVar

import torch
from mmengine.dist import all_reduce, get_rank, get_world_size
from torch import distributed

from tood.runtime import ranks

_Item = TypeVar("_Item")


def join(device: torch.device) -> None:
    """Connect the processes; each passes the device that `choose_device` returned to it."""
    if ranks.launched() == 1:
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    store = distributed.PrefixStore("group", ranks.store())
    distributed.init_process_group(backend, store=store, rank=ranks.rank(), world_size=ranks.launched())
    # mmengine takes it for the number of a visible GPU, and fails without that one, even if the CPU computes.
    os.environ["LOCAL_RANK"] = "0"


def leave() -> None:
    """Disconnect the processes, which all call this; without it one may abort as Python ends."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


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
