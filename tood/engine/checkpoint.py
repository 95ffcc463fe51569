"""Checkpoints from which a training resumes as if it had never stopped.

The folder has one file per checkpoint, `ITERATION.FINGERPRINT.SHA256.pth`. A finished training has only
`final.FINGERPRINT.SHA256.pth`. A file gets its name when its content is on the disk, so a file with a name is
whole. The checksum in the name shows later damage. The fingerprint is a digest of what decides the training:
configuration, seed, data, initial weights and code. Checkpoints of another fingerprint are never loaded.
"""

import hashlib
import io
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from tood.runtime.files import atomic_path

KEPT = 2
_FINAL = "final"


class CheckpointError(RuntimeError):
    """Checkpoints that cannot be written or read; the message names the folder and gives a hint."""


class Checkpoints:
    """The checkpoints of one run and seed.

    Args:
        folder: holds these checkpoints and nothing else.
        fingerprint: digest of what decides the training.
        minutes: time between checkpoints within an epoch.
        iterations: number of iterations between checkpoints, in addition; None means by time alone.
        warn: takes each warning.
    """

    def __init__(
        self,
        folder: Path,
        fingerprint: str,
        minutes: float,
        iterations: int | None = None,
        warn: Callable[[str], None] = print,
    ) -> None:
        self.folder, self.fingerprint, self.warn = folder, fingerprint, warn
        self.minutes, self.iterations = minutes, iterations
        self._last = time.monotonic()

    def due(self, iteration: int) -> bool:
        """Whether a checkpoint should follow this iteration."""
        if self.iterations and iteration % self.iterations == 0:
            return True
        return time.monotonic() - self._last >= self.minutes * 60

    def save(self, iteration: int, content: dict) -> None:
        """Write a checkpoint, then remove all but this one and the one before it.

        Raises:
            CheckpointError: the file cannot be written; the older ones are as they were.
        """
        path = self._write(f"{iteration:09d}", content)
        # Later ones are damaged: the training resumed from one before them.
        earlier = [other for other in self._own() if int(other.name.split(".")[0]) < iteration]
        self._keep([*earlier[1 - KEPT :], path])
        self._last = time.monotonic()

    def load(self) -> dict | None:
        """Content of the newest intact checkpoint; None if there is no checkpoint.

        Raises:
            CheckpointError: all checkpoints are damaged.
        """
        own = self._own()
        others = set(self._files()) - {*own, *self._finals()}
        if foreign := [path for path in others if not path.name.startswith(".")]:
            self.warn(
                f"{self.folder}: {len(foreign)} checkpoints of another configuration, code or data are not "
                "used"
            )
        for path in reversed(own):
            if content := self._read(path):
                return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            self.warn(f"{path}: damaged checkpoint, the one before it is used")
        if own:
            raise CheckpointError(
                f"{self.folder}: all {len(own)} checkpoints are damaged; delete the folder to start over"
            )
        return None

    def finish(self, content: dict) -> Path:
        """Write the result of a training and remove its checkpoints."""
        path = self._write(_FINAL, content)
        self._keep([path])
        return path

    def finished(self) -> Path | None:
        """The file that `finish` wrote for this fingerprint; None if there is none or it is damaged."""
        for path in self._finals():
            if self._read(path):
                return path
            self.warn(f"{path}: damaged, the run is trained again")
        return None

    def _files(self) -> list[Path]:
        """All checkpoints, and the unfinished file that a kill may have left."""
        return sorted(self.folder.glob("*.pth"))

    def _own(self) -> list[Path]:
        return sorted(self.folder.glob(f"[0-9]*.{self.fingerprint}.*.pth"))

    def _finals(self) -> list[Path]:
        return sorted(self.folder.glob(f"{_FINAL}.{self.fingerprint}.*.pth"))

    def _keep(self, kept: list[Path]) -> None:
        for path in set(self._files()) - set(kept):
            path.unlink()

    def _write(self, name: str, content: dict) -> Path:
        buffer = io.BytesIO()  # torch's own writer hides why a disk refuses the file
        torch.save(content, buffer)
        digest = hashlib.sha256(buffer.getbuffer()).hexdigest()
        path = self.folder / f"{name}.{self.fingerprint}.{digest}.pth"
        try:
            with atomic_path(path) as temporary:
                temporary.write_bytes(buffer.getbuffer())
        except OSError as error:
            free = shutil.disk_usage(self.folder.parent).free / 2**20
            raise CheckpointError(
                f"{self.folder}: a checkpoint of {buffer.tell() / 2**20:.1f} MiB cannot be written "
                f"({error.strerror}), {free:.0f} MiB are free there; free some space and start again, the "
                "training resumes from the checkpoint before"
            ) from error
        return path

    def _read(self, path: Path) -> bytes | None:
        """Content of the file; None if its checksum is not the one in its name."""
        content = path.read_bytes()
        return content if hashlib.sha256(content).hexdigest() == path.name.split(".")[2] else None


def training_state(model: nn.Module, optimizer: torch.optim.Optimizer, **progress: Any) -> dict:
    """Everything that the next iteration depends on, besides the configuration, and `progress`.

    The learning rate follows from the iteration, and the order of images from seed and epoch, so neither is
    here. A head keeps its other learned values in buffers.
    """
    name, keys, *position = cast(tuple, np.random.get_state())  # noqa: NPY002 - what the libraries use
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "random": {
            "python": random.getstate(),
            "numpy": (name, keys.tolist(), *position),
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        },
        **progress,
    }


def restore(state: dict, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Bring model, optimiser and random generators back to what `training_state` saved."""
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    generators = state["random"]
    random.setstate(generators["python"])
    name, keys, *position = generators["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *position))  # noqa: NPY002 - see above
    torch.set_rng_state(generators["torch"])
    if len(generators["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(generators["cuda"])
