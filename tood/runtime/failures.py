"""What can end a training before its last iteration: exit status, name in `state.json`, and message."""

import errno
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum, StrEnum
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from tood.runtime.text import single_line

_DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class State(StrEnum):
    """Of the training of a run with one seed, most in need of attention first.

    `state.json` says how it goes or ended; without that file it is pending. What was made with anything else
    than would be used now is stale.
    """

    FAILED = "failed"
    OUT_OF_MEMORY = "oom"
    DIVERGED = "diverged"
    INTERRUPTED = "interrupted"
    RUNNING = "running"
    STALE = "stale"
    PENDING = "pending"
    DONE = "done"
    RELEASED = "released"  # trained by others

    @property
    def finished(self) -> bool:
        """Whether there are weights, trained here or by others."""
        return self in (State.DONE, State.RELEASED)

    @property
    def stopped(self) -> bool:
        """Whether the training ended before its last iteration."""
        return self in STATE_OF.values()


class ExitCode(IntEnum):
    """Exit status of the training script.

    A launcher of several processes replaces it by its own 1. `state.json` says it in words (`STATE_OF`).
    """

    DONE = 0
    FAILED = 1
    DIVERGED = 70
    OUT_OF_MEMORY = 71
    HELD = 72  # another process trains the run
    INTERRUPTED = 143  # as a shell reports SIGTERM; the same call resumes from the checkpoint


# Of a process that SIGKILL ended, which leaves it no time to say why
KILLED = (
    "most likely it was killed with SIGKILL as memory ran out: set a smaller micro_batch, or raise mem_mb in "
    "the scale's resources"
)

# After each end before the last iteration
STATE_OF = {
    ExitCode.FAILED: State.FAILED,
    ExitCode.DIVERGED: State.DIVERGED,
    ExitCode.OUT_OF_MEMORY: State.OUT_OF_MEMORY,
    ExitCode.INTERRUPTED: State.INTERRUPTED,
}


class InputError(ValueError):
    """What a user can mend: an option, a declaration or a file; the message names it and gives a hint."""


class Diverged(RuntimeError):
    """The loss is not finite any more."""


class Interrupted(RuntimeError):
    """A signal asked to stop; everything that is needed to resume is saved."""


class Held(RuntimeError):
    """Another process holds the lock of a run or of a study."""


class RankFailed(RuntimeError):
    """Another process of the same training has failed; the message is its reason.

    Args:
        reason: the message.
        code: how that process ended.
    """

    def __init__(self, reason: str, code: ExitCode) -> None:
        super().__init__(reason)
        self.code = code


def exit_code(error: BaseException) -> ExitCode:
    """The exit status that an exception stands for."""
    import torch  # here, as other modules need the exceptions above without torch

    if isinstance(error, RankFailed):
        return error.code
    for kind, code in (
        (Diverged, ExitCode.DIVERGED),
        (Interrupted, ExitCode.INTERRUPTED),
        (KeyboardInterrupt, ExitCode.INTERRUPTED),
        (Held, ExitCode.HELD),
        ((torch.OutOfMemoryError, MemoryError), ExitCode.OUT_OF_MEMORY),
    ):
        if isinstance(error, kind):
            return code
    # torch has no class for it on a CPU.
    if isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error):
        return ExitCode.OUT_OF_MEMORY
    return ExitCode.FAILED


def reason(error: BaseException, folder: Path, micro_batch: int | None) -> str:
    """One line that says what ended the training, with a hint.

    Args:
        error: exception that ended the training.
        folder: folder of the run.
        micro_batch: images that have activations at a time; None if all of the process have them.
    """
    text = single_line(str(error)) or type(error).__name__
    if isinstance(error, RankFailed):
        return text
    code = exit_code(error)
    if code == ExitCode.OUT_OF_MEMORY:
        fewer = f"below {micro_batch}" if micro_batch else "below the batch size"
        return f"out of memory; set micro_batch {fewer}, which leaves the gradient the same ({text})"
    if code == ExitCode.DIVERGED:
        of_it = f"runs={folder.parent.name} seeds={folder.name.removeprefix('seed')}"
        hint = f"delete {folder} and call with {of_it} fresh=true to force it"
        return f"{text}; another attempt would diverge too, so none is made: {hint}"
    if isinstance(error, OSError) and error.errno in _DISK_IS_FULL:
        free = shutil.disk_usage(folder).free / 2**20
        return (
            f"{folder}: cannot be written ({error.strerror}), {free:.0f} MiB are free there; free some space"
        )
    plain = isinstance(error, RuntimeError | InputError | KeyboardInterrupt)
    return text if plain else f"{type(error).__name__}: {text}"


@contextmanager
def one_message(label: str) -> Iterator[None]:
    """Within a block of a script, what a user or the machine has caused ends the program with one message.

    Args:
        label: start of the message.
    """
    try:
        yield
    except (RuntimeError, InputError) as error:
        sys.exit(f"{label}: {error}")
    except BrokenPipeError:
        raise
    except OSError as error:
        hint = "; free some space and call again" if error.errno in _DISK_IS_FULL else ""
        sys.exit(f"{label}: {error}{hint}")


class StopRequest:
    """Whether a signal asked to stop: SIGTERM, SIGINT, or SIGUSR1, which Slurm sends before the time limit.

    The training checks it between iterations. A second SIGINT interrupts at once.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def install(self) -> None:
        """Handle the signals from now on."""
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def __call__(self) -> bool:
        """Whether a signal came."""
        return self.signal is not None


class Unbroken:
    """A text stream that writes to nowhere when its reader has ended, as `tee` does after a signal to all."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """As the stream's."""
        with self._to_nowhere():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """As the stream's."""
        with self._to_nowhere():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextmanager
    def _to_nowhere(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            silence = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silence, self._stream.fileno())  # buffered text goes there too
            os.close(silence)


def survive_broken_pipes() -> None:
    """Let a training go on after the reader of its output has ended."""
    sys.stdout, sys.stderr = Unbroken(sys.stdout), Unbroken(sys.stderr)
