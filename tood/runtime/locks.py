"""One process at a time trains a run, takes a GPU, or runs the workflow of a study.

A lock is a file that the system locks for a process. The system frees it when the process ends, also when it
is killed. Beside the lock of a folder, `lock.json` says who holds it.

Some network file systems do not lock across hosts. There, a holder on another host counts as alive while its
heartbeat, the `updated` of its `state.json`, is younger than `HEARTBEAT_TIMEOUT`.
"""

import math
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from tood.runtime.failures import Held, Interrupted
from tood.runtime.files import write_json
from tood.runtime.run_state import HEARTBEAT_TIMEOUT, read_state

_SECONDS_BETWEEN_TRIES = 1.0


def try_lock(path: Path) -> FileLock | None:
    """Lock a file for this process; None if another one holds it."""
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return None
    return lock


class FolderLock:
    """The lock of a folder, free at first.

    Args:
        folder: is made if it is not there.
        heartbeat: `state.json`, which a holder keeps up to date; None relies on the system's lock alone.
    """

    def __init__(self, folder: Path, heartbeat: Path | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path, self._owner, self._heartbeat = folder / "lock", folder / "lock.json", heartbeat
        self._lock: FileLock | None = None

    def acquire(self) -> str | None:
        """The process that holds the folder, in words; None if from now on this one does."""
        owner = read_state(self._owner)
        lock = try_lock(self._path)
        if lock is None:
            return _in_words(owner)
        if self._lives_elsewhere(owner):
            lock.release()
            return _in_words(owner)
        self._lock = lock
        try:
            write_json(self._owner, {"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()})
        except OSError:
            self.release()
            raise
        return None

    def release(self) -> None:
        """Free the folder if this process holds it."""
        if self._lock:
            self._owner.unlink(missing_ok=True)
            self._lock.release()
            self._lock = None

    def _lives_elsewhere(self, owner: Mapping) -> bool:
        """Whether the folder is free by the system's lock alone, as its holder runs on another host."""
        if self._heartbeat is None or not owner or owner.get("host") == socket.gethostname():
            return False
        heard = max(owner.get("since", 0), read_state(self._heartbeat).get("updated", 0))
        return time.time() - heard < HEARTBEAT_TIMEOUT


@contextmanager
def claim(
    folder: Path,
    *,
    wait: float = math.inf,
    stop: Callable[[], bool] = lambda: False,
    say: Callable[[str], None] = print,
) -> Iterator[None]:
    """Hold the folder of a run within a block.

    A second process waits for the first. It then finds the run finished, or goes on where the first stopped.
    So a workflow that was killed can be called again while its trainer still runs.

    Args:
        folder: of the run.
        wait: seconds to wait for another holder to end.
        stop: whether to give up waiting.
        say: takes a message that names the holder.

    Raises:
        Held: another process still holds the folder.
        Interrupted: `stop` returned true.
    """
    lock = FolderLock(folder, heartbeat=folder / "state.json")
    start, said = time.monotonic(), None
    try:
        while holder := lock.acquire():
            if time.monotonic() - start >= wait:
                raise Held(f"{folder}: {holder} trains this run; wait until it ends, or end it")
            if stop():
                raise Interrupted(f"stopped by a signal while {holder} trains this run")
            if holder != said:
                say(f"{folder}: {holder} trains this run, waiting for it to end")
                said = holder
            time.sleep(min(_SECONDS_BETWEEN_TRIES, wait))
        yield
    finally:
        lock.release()


def hold_study(folder: Path) -> FolderLock:
    """Hold a study until the returned lock is released or the process ends.

    Snakemake's own lock stays when Snakemake is killed, and then refuses the same command until a person
    unlocks it. This one does not.

    Args:
        folder: of the study, below `work`.

    Raises:
        Held: another call of the workflow holds the study; the message names its process.
    """
    lock = FolderLock(folder)
    if holder := lock.acquire():
        raise Held(
            f"{folder}: {holder} works on this study; wait until it ends, or end it, or give this call a "
            "name of its own: --config name=NAME"
        )
    return lock


def _in_words(owner: Mapping) -> str:
    """The holder of a lock, by the content of its `lock.json`."""
    name = f"process {owner.get('pid', '(unknown)')} on {owner.get('host', '(unknown host)')}"
    if "since" in owner:
        name += time.strftime(" (since %Y-%m-%d %H:%M)", time.localtime(owner["since"]))
    return name
