"""`state.json`: what a training does at the moment, for everyone who wants to know while it runs."""

import os
import socket
import time
from pathlib import Path
from typing import Any

from tood.runtime.files import read_json, write_json

HEARTBEAT_INTERVAL = 10.0
# A training that has not written for so long is dead, or on its way to be.
HEARTBEAT_TIMEOUT = 300.0

_NOT_KNOWN_YET = (
    *("resumed_from", "iteration", "iterations", "epoch", "epochs"),
    *("images_per_second", "seconds_left", "loss"),
)


class RunState:
    """Writes the state of one training; the keys are those of the constructor, `beat` and `end`.

    Times are seconds since 1970; `epoch` counts from 1; `attempt` counts the starts of the same training.

    Args:
        path: of `state.json`.
        fingerprint: of what is trained; attempts at something else are not counted.
        known: what stays the same, such as run, seed and device.
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
        """Say how far it is; written at most every `HEARTBEAT_INTERVAL`."""
        self.content |= news
        if time.time() - self.content["updated"] >= HEARTBEAT_INTERVAL:
            self._write()

    def end(self, state: str, **news: Any) -> None:
        """Say how it ended."""
        self.content |= {"state": state, **news}
        self._write()

    def _write(self) -> None:
        self.content["updated"] = time.time()
        write_json(self.path, self.content)


def read_state(path: Path) -> dict:
    """The state as last written, empty if there is none that can be read."""
    try:
        return read_json(path)
    except (OSError, ValueError):
        return {}
