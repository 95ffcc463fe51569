"""The gradient of a batch by the engine: in this process, and by `helpers.gradients` in several."""

from pathlib import Path

from helpers.gradients import gradients, make_model, of_cases, whole_batch
from helpers.operators import no_rounding
from helpers.processes import results_of
from tood.engine.replicas import batch_gradient


def launch(whose: str, processes: int, cases: list[str], folder: Path) -> dict[str, dict]:
    """What the processes of `helpers.gradients` compute, by case."""
    return results_of(processes, of_cases, folder, whose, cases)[0]


def gradient_here(case: str, micro_batch: int | None) -> dict:
    """The gradient by the engine in this process."""
    run, epoch, images = case.split(":")
    model = make_model(run, int(epoch))
    with no_rounding():
        batch_gradient(model, whole_batch(int(images)), micro_batch)
    return gradients(model)
