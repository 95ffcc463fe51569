"""What several connected processes do in a test, and what each of them is to return."""

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed, multiprocessing, nn

from helpers.forkserver import start_forkserver
from tood.engine import gradient_sum, stop_votes
from tood.engine.gradient_sum import summed_over_processes
from tood.engine.stop_votes import StopVotes


def results_of(number: int, function: Callable[..., Any], folder: Path, *given: Any) -> list[Any]:
    """What a function of this module returns in each of so many processes; it is given the rank first."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start_forkserver()
    arguments = (number, port, function, folder, given)
    multiprocessing.start_processes(_connected, arguments, nprocs=number, start_method="forkserver")
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(number)]


def _connected(rank: int, number: int, port: int, function: Callable, folder: Path, given: tuple) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", rank=rank, world_size=number)
    torch.save(function(rank, *given), folder / f"{rank}.pt")
    distributed.destroy_process_group()


class Net(nn.Module):
    """With parameters that rank 0 alone uses, that no pass uses, and that only the first pass uses."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(8, 8) for _ in range(3))
        self.of_rank_0, self.unused, self.early = (nn.Parameter(torch.randn(8)) for _ in range(3))


def gradients(rank: int, number: int, factor: float | None, bucket_mb: float) -> dict[str, Any]:
    """Of two passes: those that were summed while the last pass ran, and this process's own before the sum.

    The last rank has no pass at all. `order` says which bucket was sent after how many filled parameters.
    """
    gradient_sum.BUCKET_MB = bucket_mb
    torch.manual_seed(0)
    net = Net()
    inputs = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(rank))
    filled, order, send = [], [], gradient_sum._Bucket.send

    def sending(bucket: Any, factor: Any) -> None:
        order.append(len(filled))
        send(bucket, factor)

    gradient_sum._Bucket.send = sending

    def one_pass(index: int) -> None:
        x = net.third(net.second(net.first(inputs[index])).relu()).pow(2).sum()
        if rank == 0:
            x = x + (net.of_rank_0**3).sum()
        if index == 0:
            x = x + (net.early**3).sum()
        if rank < number - 1:
            x.backward()

    def own() -> dict[str, Any]:
        return {name: None if p.grad is None else p.grad.clone() for name, p in net.named_parameters()}

    one_pass(0)
    one_pass(1)
    apart = own()
    net.zero_grad()
    for parameter in net.parameters():
        parameter.register_post_accumulate_grad_hook(filled.append)
    one_pass(0)
    filled.clear()
    with summed_over_processes(net, None if factor is None else torch.tensor(factor)):
        one_pass(1)
    return {"apart": apart, "summed": own(), "order": order}


def votes(rank: int, stopping: int, seconds: list[float]) -> dict[str, Any]:
    """The iteration at which this process was to stop, where rank 1 wants to from `stopping` on."""
    asked, ask = [], stop_votes.all_reduce
    stop_votes.all_reduce = lambda *args: (asked.append(iteration), ask(*args))
    iteration = 0
    voting = StopVotes(lambda: rank == 1 and iteration >= stopping, torch.device("cpu"))
    while not voting.agreed(False):
        time.sleep(seconds[rank])
        iteration += 1
        assert iteration < 10_000
    return {"stopped": iteration, "asked": asked, "together": voting.together}
