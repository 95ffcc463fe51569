"""The gradient of a batch by the engine: in this process, and by `helpers.gradients` in several."""

import inspect
import os
import subprocess
import sys
from pathlib import Path

import torch

from helpers.gradients import gradients, make_model, whole_batch
from helpers.operators import no_rounding
from tood.engine.replicas import batch_gradient


def launch(whose: str, processes: int, cases: list[str], folder: Path) -> dict[str, dict]:
    """What the processes of `helpers.gradients` compute, by case."""
    program = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", processes]
    program += [inspect.getsourcefile(make_model), whose, folder, *cases]
    done = subprocess.run(
        [*map(str, program)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([".", "tests"])},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return {case: torch.load(folder / f"{case}.pt") for case in cases}


def gradient_here(case: str, micro_batch: int | None) -> dict:
    """The gradient by the engine in this process."""
    run, epoch, images = case.split(":")
    model = make_model(run, int(epoch))
    with no_rounding():
        batch_gradient(model, whole_batch(int(images)), micro_batch)
    return gradients(model)
