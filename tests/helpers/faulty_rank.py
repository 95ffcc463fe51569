"""One of several processes that train, to one of which something happens before an iteration.

    python -m tood.runtime.launch ... tests/helpers/faulty_rank.py FAULT RANK AT ARGUMENTS...

`ARGUMENTS` are those of the step `train`. With a fault whose name begins with `stuck` the others
wait from that iteration on, as on a GPU for one that is gone: whatever the signal, they do not return.
"""

import os
import signal
import sys
import time

import torch

from tood.engine import trainer as loop
from tood.runtime.failures import Diverged
from tood.runtime.ranks import rank
from tood.workflow.steps import main as step


def fail(losses: dict) -> None:
    raise RuntimeError("a fault of this rank alone")


def exhaust_memory(losses: dict) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def diverge(losses: dict) -> None:
    raise Diverged("predictions are not finite")


def kill(losses: dict) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def slow(losses: dict) -> None:
    """Of all ranks and in each iteration, so that a signal has time to reach them."""
    time.sleep(0.5)


def wait(losses: dict) -> None:
    while True:
        time.sleep(1)


def main() -> None:
    kind, of, at = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    fault = globals()[kind.removeprefix("stuck_")]
    gradient, count = loop.batch_gradient, 0

    def faulty(*given):
        nonlocal count
        losses = gradient(*given)
        if kind == "slow":
            slow(losses)
        elif count == at:
            if rank() == of:
                time.sleep(1)  # so that the others wait
                fault(losses)
            elif kind.startswith("stuck_"):
                wait(losses)
        count += 1
        return losses

    loop.batch_gradient = faulty
    sys.exit(step(["train", *sys.argv[4:]]))


if __name__ == "__main__":
    main()
