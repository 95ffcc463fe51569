"""What can end a training besides its last iteration: how it is called, said, and signalled to the caller."""

import errno
import os
import shutil
import signal
import sys
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from types import FrameType
from typing import Any, TextIO, TypeVar

_Result = TypeVar("_Result")


class ExitCode(IntEnum):
    """Of the training script. `torchrun` hides them behind its own 1; `state.json` says the same in words."""

    DONE = 0
    FAILED = 1
    DIVERGED = 70
    OUT_OF_MEMORY = 71
    HELD = 72  # another process trains this run
    INTERRUPTED = 143  # as a shell reports SIGTERM; the same call goes on from the checkpoint


# How the ends of a training are called in state.json
STATE_OF = {
    ExitCode.FAILED: "failed",
    ExitCode.DIVERGED: "diverged",
    ExitCode.OUT_OF_MEMORY: "oom",
    ExitCode.INTERRUPTED: "interrupted",
}


class Diverged(RuntimeError):
    """The loss is no longer a finite number."""


class Interrupted(RuntimeError):
    """Asked to stop, and everything needed to go on is saved."""


class Held(RuntimeError):
    """Another process trains this run."""


def exit_code(error: BaseException) -> ExitCode:
    """What kind of end an exception is."""
    import torch  # here, as the exceptions above are wanted without it

    for kind, code in (
        (Diverged, ExitCode.DIVERGED),
        (Interrupted, ExitCode.INTERRUPTED),
        (KeyboardInterrupt, ExitCode.INTERRUPTED),
        (Held, ExitCode.HELD),
        ((torch.OutOfMemoryError, MemoryError), ExitCode.OUT_OF_MEMORY),
    ):
        if isinstance(error, kind):
            return code
    # On a CPU torch has no class for it.
    if isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error):
        return ExitCode.OUT_OF_MEMORY
    return ExitCode.FAILED


def reason(error: BaseException, folder: Path, images_per_gpu: int | None) -> str:
    """One line: what ended the training, and a hint.

    Args:
        error: which ended it.
        folder: where the run writes.
        images_per_gpu: in one forward pass; None if the whole share of the batch.
    """
    text = " ".join(str(error).split()) or type(error).__name__
    code = exit_code(error)
    if code == ExitCode.OUT_OF_MEMORY:
        fewer = f"below {images_per_gpu}" if images_per_gpu else "below the batch size"
        return f"out of memory; set images_per_gpu {fewer}, for the same gradient in smaller parts ({text})"
    if code == ExitCode.DIVERGED:
        return f"{text}; it would end so again, hence is not tried again: delete {folder} to force it"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        free = shutil.disk_usage(folder).free / 2**20
        return f"{folder}: cannot be written ({error.strerror}), {free:.0f} MiB are free there; make room"
    return text if isinstance(error, RuntimeError | KeyboardInterrupt) else f"{type(error).__name__}: {text}"


class StopRequest:
    """Whether a signal asked to stop: SIGTERM, SIGUSR1 (Slurm's warning before the time is up) or SIGINT.

    The training asks between iterations. A second SIGINT interrupts at once.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def install(self) -> None:
        """Take the signals from now on."""
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def __call__(self) -> bool:
        """Whether one came."""
        return self.signal is not None


class _Unbroken:
    """A text stream that falls silent when its reader is gone, as `tee` is after a signal to all."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._try(lambda: self._stream.write(text)) or len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _try(self, action: Callable[[], _Result]) -> _Result | None:
        try:
            return action()
        except BrokenPipeError:
            silence = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silence, self._stream.fileno())  # what is buffered goes there too
            os.close(silence)
            return None


def survive_broken_pipes() -> None:
    """Let a training outlive the reader of its output."""
    sys.stdout, sys.stderr = _Unbroken(sys.stdout), _Unbroken(sys.stderr)
