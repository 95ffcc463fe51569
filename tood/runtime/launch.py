"""`torchrun` whose processes have time to save what they have.

    python -m tood.runtime.launch --nproc-per-node 4 ... SCRIPT ARGUMENTS

takes the options of `python -m torch.distributed.run`. That passes a signal on to its processes, but then
kills them after half a minute, for which it has no option. An iteration and a checkpoint may take longer.
"""

from typing import Any

from torch.distributed.elastic.multiprocessing import PContext
from torch.distributed.run import main

# Whoever gives less kills the launcher itself, as Slurm does at the end of the time.
SECONDS_TO_STOP = 600

_close = PContext.close


def close(context: PContext, death_sig: Any = None, timeout: int = SECONDS_TO_STOP) -> None:
    """As torch's, but for the time."""
    _close(context, death_sig, timeout)


def be_patient() -> None:
    """Let processes that were told to stop have `SECONDS_TO_STOP` seconds."""
    PContext.close = close  # type: ignore[method-assign,assignment]


if __name__ == "__main__":
    be_patient()
    main()
