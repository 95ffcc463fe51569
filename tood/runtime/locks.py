"""One process at a time trains a run.

The claim is a lock on the file `lock`, which the system frees when its holder dies, however it dies;
`lock.json` says who that is. Where locks do not reach from host to host, as on some network file systems, a
holder elsewhere counts as alive while its `state.json` is not older than `SILENCE_SECONDS`.

A second process waits for the first and then finds the run finished, or goes on where the first stopped. So
the command that was running when Snakemake was killed can simply be typed again while its trainer lives.
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
from tood.runtime.run_state import SILENCE_SECONDS, read_state

_SECONDS_BETWEEN_TRIES = 1.0


@contextmanager
def claim(
    folder: Path,
    *,
    wait: float = math.inf,
    stop: Callable[[], bool] = lambda: False,
    say: Callable[[str], None] = print,
) -> Iterator[None]:
    """Hold a run's folder.

    Args:
        folder: of the run.
        wait: seconds for another holder to end.
        stop: whether to give up waiting.
        say: called with whom this waits for.

    Raises:
        Held: another process still holds it.
        Interrupted: told to stop while waiting.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock, owner = FileLock(folder / "lock"), folder / "lock.json"
    start, said = time.monotonic(), None
    while holder := _acquire(lock, folder):
        if time.monotonic() - start >= wait:
            raise Held(f"{folder}: {holder} trains this run; wait until it ends, or end it")
        if stop():
            raise Interrupted(f"told to stop while {holder} trains this run")
        if holder != said:
            say(f"{folder}: {holder} trains this run, waiting for it to end")
            said = holder
        time.sleep(min(_SECONDS_BETWEEN_TRIES, wait))
    try:
        write_json(owner, {"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()})
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


def name_of(owner: Mapping) -> str:
    """The holder of a lock in words, by the content of its `lock.json`."""
    name = f"process {owner.get('pid', '(unknown)')} on {owner.get('host', '(unknown host)')}"
    if "since" in owner:
        name += time.strftime(" (since %Y-%m-%d %H:%M)", time.localtime(owner["since"]))
    return name


def _acquire(lock: FileLock, folder: Path) -> str | None:
    """Who holds the run; None if from now on it is this process."""
    owner = read_state(folder / "lock.json")
    name = name_of(owner)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return name
    if owner and owner.get("host") != socket.gethostname():
        heard = max(owner.get("since", 0), read_state(folder / "state.json").get("updated", 0))
        if time.time() - heard < SILENCE_SECONDS:
            lock.release()
            return name
    return None
