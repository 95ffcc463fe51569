"""One of several processes on a machine that seems to have GPUs: prints its rank and the GPU that it takes.

python -m tood.runtime.launch ... tests/helpers/gpu_ranks.py GPUS
"""

import sys

import torch
from mmengine.logging import MMLogger

from helpers.gpus import shown
from tood.runtime.device import choose_device
from tood.runtime.distributed import any_process, join, leave
from tood.runtime.ranks import rank

if __name__ == "__main__":
    for name, value in shown([(8, 0)] * int(sys.argv[1]), []).items():
        setattr(torch.cuda, name, value)
    try:
        taken = str(choose_device("cuda").index)
    except RuntimeError as error:
        taken = str(error)
    join(torch.device("cpu"))
    MMLogger.get_instance("test")
    print(f"rank {rank()}: {taken}\n", end="", flush=True)
    any_process(True, torch.device("cpu"))  # so that none leaves early
    leave()
