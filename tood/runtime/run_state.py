"""`state.json`: how far a training is, for other processes to read while it runs."""

import os
import socket
import time
from pathlib import Path
from typing import Any

from tood.runtime.files import read_json, write_json

HEARTBEAT_INTERVAL = 10.0  # seconds between writes
HEARTBEAT_TIMEOUT = 300.0  # seconds without a write after which a training counts as dead

_NOT_KNOWN_YET = (
    *("resumed_from", "iteration", "iterations", "epoch", "epochs"),
    *("images_per_second", "seconds_left", "loss"),
)


class RunState:
    """Writes the state of one training.

    Times are in seconds since 1970. `epoch` counts from 1. `attempt` counts the starts of the same training.

    Args:
        path: file of the state.
        fingerprint: digest of what decides the training; starts with another fingerprint are not counted.
        known: values that do not change during the training, such as run, seed and device.
    """

    def __init__(self, path: Path, fingerprint: str, **known: Any) -> None:
        self.path = path
        before = read_state(path)
        same = before.get("fingerprint") == fingerprint
        now = time.time()
        self.content = {
            "state": "running",
            "fingerprint": fingerprint,
            **known,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "started": now,
            "updated": now,
            "attempt": before.get("attempt", 0) + 1 if same else 1,
            **dict.fromkeys(_NOT_KNOWN_YET),
        }
        write_json(path, self.content)

    def beat(self, **news: Any) -> None:
        """Set values of the state; the file is written once per `HEARTBEAT_INTERVAL` at most."""
        self.content |= news
        if time.time() - self.content["updated"] >= HEARTBEAT_INTERVAL:
            self._write()

    def end(self, state: str, **news: Any) -> None:
        """Write how the training ended."""
        self.content |= {"state": state, **news}
        self._write()

    def _write(self) -> None:
        self.content["updated"] = time.time()
        write_json(self.path, self.content)


def read_state(path: Path) -> dict:
    """The content of a state or owner file; empty if there is none or it cannot be read."""
    try:
        return read_json(path)
    except (OSError, ValueError):
        return {}
