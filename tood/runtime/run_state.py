"""`state.json`: how far a training is, for other processes to read while it runs."""

import math
import os
import socket
import time
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator

from tood.runtime.failures import State
from tood.runtime.files import DamagedFile, read_json, write_json

HEARTBEAT_INTERVAL = 10.0  # seconds between writes
HEARTBEAT_TIMEOUT = 300.0  # seconds without a write after which a training counts as dead

_NOT_KNOWN_YET = (
    *("resumed_from", "iteration", "iterations", "epoch", "epochs"),
    *("images_per_second", "seconds_left", "loss"),
)


class StateFile(BaseModel):
    """The types of what `RunState` writes, and what a training says of itself at its end."""

    state: Annotated[State, BeforeValidator(State)]
    fingerprint: str | None = None
    reason: str | None = None
    run: str | None = None
    seed: int | None = None
    device: str | None = None
    pid: int | None = None
    host: str | None = None
    started: float | None = None
    updated: float | None = None
    attempt: int | None = None
    resumed_from: int | None = None
    iteration: int | None = None
    iterations: int | None = None
    epoch: int | None = None
    epochs: int | None = None
    images: int | None = None
    images_per_second: float | None = None
    seconds: float | None = None
    seconds_left: float | None = None
    peak_memory_mb: float | None = None
    loss: float | None = None


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
            "state": State.RUNNING,
            "fingerprint": fingerprint,
            **known,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "started": now,
            "updated": now,
            "attempt": (before.get("attempt") or 0) + 1 if same else 1,
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
    """The content of a state file; empty if there is none or it cannot be read."""
    try:
        return read_json(path, StateFile)
    except (OSError, DamagedFile):
        return {}


def silence(path: Path, updated: float, now: float, now_there: float | None = None) -> float:
    """Seconds since a process wrote a file, by the time in it.

    A time to come is of a host whose clock is ahead. Then the time that the file system gave the file counts;
    a file from the future is taken for one that nobody writes any more.

    Args:
        updated: time in it, Unix seconds by the clock of the host that wrote it.
        now: Unix seconds by the clock of this host.
        now_there: the same by the clock of the file system; None takes `now`.
    """
    if updated <= now:
        return now - updated
    try:
        written = path.stat().st_mtime
    except OSError:
        return math.inf
    ahead = written - (now if now_there is None else now_there)
    return max(-ahead, 0.0) if ahead < HEARTBEAT_TIMEOUT else math.inf
