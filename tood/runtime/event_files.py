"""TensorBoard's event files of a training, beside `losses.jsonl`, which stays what everything else reads."""

from collections.abc import Mapping
from pathlib import Path

MISSING = (
    "logger=tensorboard: the package tensorboard is not installed; `pip install tensorboard` where jobs run, "
    "or leave the option out"
)


class EventFiles:
    """Writes each entry of the loss log as scalars.

    Args:
        folder: of the event files; `tensorboard --logdir` takes it or any folder above it.
        iteration: iteration that the training resumes from; TensorBoard then hides what an earlier attempt
            wrote after it.

    Raises:
        RuntimeError: the package tensorboard is not installed.
    """

    def __init__(self, folder: Path, iteration: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise RuntimeError(MISSING) from error
        self._writer = SummaryWriter(str(folder), purge_step=iteration + 1 if iteration else None)

    def add(self, entry: Mapping) -> None:
        """Write one entry, under its iteration; what is not defined in it is left out."""
        for name, value in entry.items():
            if name != "iteration" and value is not None:
                group = "loss" if name.startswith("loss") else "training"  # before the slash
                self._writer.add_scalar(f"{group}/{name}", value, entry["iteration"])
        self._writer.flush()  # one can look on while it trains, and a kill loses nothing
