"""One call of the workflow at a time works on a study.

Snakemake's own lock stays behind when Snakemake is killed, and then refuses the same command until a person
unlocks. This one is the system's, on a file, and goes with its holder.
"""

import os
import socket
from pathlib import Path

from filelock import FileLock, Timeout

from tood.runtime.files import write_json
from tood.runtime.locks import name_of
from tood.runtime.run_state import read_state


class StudyHeld(RuntimeError):
    """Another call works on the study."""


def hold_study(folder: Path) -> FileLock:
    """Hold a study until the lock returned is released or the process ends.

    Args:
        folder: of the study, below `work`.

    Raises:
        StudyHeld: another process holds it; the message names it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock, owner = FileLock(folder / "lock"), folder / "lock.json"
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise StudyHeld(
            f"{folder}: {name_of(read_state(owner))} works on this study; wait until it ends, or end it, or "
            "give this call a name of its own: --config name=NAME"
        ) from None
    write_json(owner, {"pid": os.getpid(), "host": socket.gethostname()})
    return lock
