"""One process at a time trains a run, takes a GPU, or runs the workflow of a study.

A lock is a file that the system locks for a process. The system frees it when the process ends, also when it
is killed. Beside the lock of a folder, `lock.json` says who holds it.

Some network file systems do not lock across hosts. There, a holder on another host counts as alive while its
heartbeat, the `updated` of its `state.json`, is younger than `HEARTBEAT_TIMEOUT`. Where its clock is ahead of
this host's, the times of the files count, all of which the file system's own clock gives.
"""

import atexit
import fcntl
import math
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import BaseModel

from tood.runtime.failures import Held, Interrupted
from tood.runtime.files import DamagedFile, read_json, write_json
from tood.runtime.run_state import HEARTBEAT_TIMEOUT, read_state, silence

_SECONDS_BETWEEN_TRIES = 1.0
_SECONDS_OF_A_PROBE = 0.05  # that `is_held` has a lock, at most


class Owner(BaseModel):
    """The types of what `lock.json` says."""

    pid: int
    host: str
    since: float


def try_lock(path: Path) -> FileLock | None:
    """Lock a file for this process; None if another one holds it."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=2 * _SECONDS_OF_A_PROBE, poll_interval=_SECONDS_OF_A_PROBE)
    except Timeout:
        return None
    return lock


def is_held(folder: Path) -> bool:
    """Whether a process of this host holds a folder's lock; changes nothing and blocks no other process."""
    try:
        descriptor = os.open(folder / "lock", os.O_RDONLY)
    except FileNotFoundError:
        return False
    except OSError:
        return True  # nobody knows
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


class FolderLock:
    """The lock of a folder, free at first.

    Args:
        folder: is made if it is not there.
        heartbeat: `state.json`, which a holder keeps up to date; None relies on the system's lock alone.
        hidden: whether the lock's files have hidden names, and go when the folder is freed.
    """

    def __init__(self, folder: Path, heartbeat: Path | None = None, hidden: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        name = ".lock" if hidden else "lock"
        self._hidden = hidden
        self._path, self._owner, self._heartbeat = folder / name, folder / f"{name}.json", heartbeat
        self._lock: FileLock | None = None

    def acquire(self) -> str | None:
        """The process that holds the folder, in words; None if from now on this one does."""
        owner = _read_owner(self._owner)
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
            if self._hidden:
                self._path.unlink(missing_ok=True)  # who waits for it sees that, and makes another
            self._lock.release()
            self._lock = None

    def _lives_elsewhere(self, owner: Mapping) -> bool:
        """Whether the folder is free by the system's lock alone, as its holder runs on another host."""
        if self._heartbeat is None or not owner or owner.get("host") == socket.gethostname():
            return False
        os.utime(self._path)
        now, now_there = time.time(), self._path.stat().st_mtime
        beat = read_state(self._heartbeat).get("updated") or 0.0
        silences = (
            silence(self._owner, owner["since"], now, now_there),
            silence(self._heartbeat, beat, now, now_there),
        )
        return min(silences) < HEARTBEAT_TIMEOUT


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
        wait: seconds to wait for another holder to end.
        stop: whether to give up waiting.
        say: takes a message that names the holder.

    Raises:
        Held: another process still holds the folder.
        Interrupted: `stop` returned true.
    """
    lock = FolderLock(folder, heartbeat=folder / "state.json")
    start, known_holder = time.monotonic(), None
    try:
        while holder := lock.acquire():
            if time.monotonic() - start >= wait:
                raise Held(f"{folder}: {holder} trains this run; wait until it ends, or end it")
            if stop():
                raise Interrupted(f"stopped by a signal while {holder} trains this run")
            if holder != known_holder:
                say(f"{folder}: {holder} trains this run, waiting for it to end")
                known_holder = holder
            time.sleep(min(_SECONDS_BETWEEN_TRIES, wait))
        yield
    finally:
        lock.release()


def hold_study(work: Path, results: Path | None = None) -> ExitStack:
    """Hold a study until what is returned is closed or the process ends.

    Snakemake's own lock stays when Snakemake is killed, and then refuses the same command until a person
    unlocks it. This one does not. Two clones may share one of the folders, by a link or a network.

    Args:
        work: folder of what can be made again.
        results: folder of what is kept, parts of it by git; None holds `work` alone.

    Raises:
        Held: another call of the workflow holds one of them; the message names its process.
    """
    with ExitStack() as held:
        for folder, hidden in ((work, False), (results, True)):
            if folder is None:
                continue
            lock = FolderLock(folder, hidden=hidden)
            held.callback(lock.release)
            if holder := lock.acquire():
                raise Held(
                    f"{folder}: {holder} works on this study; wait until it ends, or end it, or give this "
                    "call a name of its own: --config name=NAME"
                )
        kept = held.pop_all()
    atexit.register(kept.close)
    return kept


def _read_owner(path: Path) -> Mapping:
    """The content of a `lock.json`; empty if there is none or it cannot be read."""
    try:
        return read_json(path, Owner)
    except (OSError, DamagedFile):
        return {}


def _in_words(owner: Mapping) -> str:
    """The holder of a lock, by the content of its `lock.json`."""
    name = f"process {owner.get('pid', '(unknown)')} on {owner.get('host', '(unknown host)')}"
    try:
        return name + time.strftime(" (since %Y-%m-%d %H:%M)", time.localtime(owner["since"]))
    except (KeyError, OverflowError, OSError, ValueError):  # a time that is none
        return name
