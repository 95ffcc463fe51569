"""The processes of one training, which `tood.runtime.launch` starts: what they agree on, and how they end.

Environment variables say the rank and the world size. Without these there is one process, and nothing here
has an effect. A failure of one ends all: by itself a process would wait in a collective operation for one
that is gone, on a GPU without end, and rank 0 would not know why.
"""

import contextlib
import functools
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, NoReturn, TypeVar

import psutil
from torch import distributed

from tood.runtime.failures import KILLED, ExitCode, RankFailed, exit_code

_Item = TypeVar("_Item")

_SECONDS_BETWEEN_LOOKS = 1.0
_LOOKS_AFTER_AN_ERROR = 10  # in this time
_SECONDS_TO_END = 5.0  # in which a process ends by itself once another has, if it can


def launched() -> int:
    """The world size."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """The rank of this process, also before `tood.runtime.distributed.join`."""
    return int(os.environ.get("RANK", "0"))


def is_main() -> bool:
    """Whether this process is rank 0, which alone writes files."""
    return rank() == 0


@functools.cache
def store() -> distributed.Store:
    """The keys and values that the processes share; the launcher keeps them."""
    return next(iter(distributed.rendezvous("env://")))[0]


def on_this_machine(assign: Callable[[int], Sequence[_Item]]) -> _Item:
    """What the first of this training's processes on this machine assigns to this one.

    Args:
        assign: gives an item, which is JSON-able, for each of so many processes; only the first calls it.

    Raises:
        RuntimeError: `assign` raised it, in all of the processes.
    """
    key, number = f"assigned/{_machine()}", int(os.environ["LOCAL_WORLD_SIZE"])
    local_rank = int(os.environ["LOCAL_RANK"])
    if local_rank == 0:
        answer: dict[str, Any]
        try:
            answer = {"items": assign(number)}
        except RuntimeError as error:
            answer = {"error": str(error)}
        store().set(key, json.dumps(answer))
    else:
        answer = json.loads(store().get(key))
    if "error" in answer:
        raise RuntimeError(answer["error"])
    return answer["items"][local_rank]


def _machine() -> str:
    """The number of this machine among those of the training."""
    return os.environ.get("GROUP_RANK", "0")


def end_at_once(code: ExitCode) -> NoReturn:
    """End this process, whose connections to others may wait for one that is gone."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class RankWatch:
    """Within a block, a failure of one process ends all of them, each with the reason of the first.

    Each says when it leaves the block, and how. A thread of each looks after the others once a second. Where
    one has failed or was stopped, this one has a few seconds to end by itself: operations on the CPU fail
    without that one, those on a GPU wait. Then the thread ends the process.

    Args:
        reason: the line that says why an exception ends this process.
        give_up: is called before the thread ends this process, with the failure of the other.
    """

    def __init__(self, reason: Callable[[BaseException], str], give_up: Callable[[RankFailed], None]) -> None:
        self._reason, self._give_up = reason, give_up
        self._ended = threading.Event()
        self._others = set(range(launched())) - {rank()}

    def __enter__(self) -> "RankWatch":
        if self._others:
            # Of its own: one that waits for a key lets nobody else ask.
            self._store = store().clone()  # type: ignore[attr-defined]
            process = {"pid": os.getpid(), "machine": _machine()}
            self._store.set(f"process/{rank()}", json.dumps(process))
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._others:
            code = ExitCode.DONE if error is None else exit_code(error)
            end = {"code": code, "reason": "" if error is None else self._reason(error)}
            with contextlib.suppress(RuntimeError):  # the launcher has ended, of which the others know
                self._store.set(f"end/{rank()}", json.dumps(end))
            self._thread.join(_SECONDS_TO_END)  # Python must not end within one of its questions

    @contextmanager
    def attributed(self) -> Iterator[None]:
        """Within a block, an error that only follows from the end of another process becomes that one's.

        Raises:
            RankFailed: another process has failed.
        """
        try:
            yield
        except Exception as error:
            if self._others and exit_code(error) == ExitCode.FAILED:
                for _ in range(_LOOKS_AFTER_AN_ERROR):
                    if failed := self._failed():
                        raise failed from error
                    time.sleep(_SECONDS_BETWEEN_LOOKS / _LOOKS_AFTER_AN_ERROR)
            raise

    def _watch(self) -> None:
        while not self._ended.wait(_SECONDS_BETWEEN_LOOKS):
            if (failed := self._failed()) and not self._ended.wait(_SECONDS_TO_END):
                try:
                    self._give_up(failed)
                finally:
                    end_at_once(exit_code(failed))

    def _failed(self) -> RankFailed | None:
        """The failure of another process, if one has failed."""
        try:
            for other in sorted(self._others):
                gone = self._is_gone(other)  # before its word is asked for, which it may leave in between
                if self._store.check([f"end/{other}"]):
                    end = json.loads(self._store.get(f"end/{other}"))
                    if end["code"] != ExitCode.DONE:
                        return RankFailed(end["reason"], ExitCode(end["code"]))
                    self._others -= {other}
                elif gone:
                    return RankFailed(f"rank {other} ended without a word: {KILLED}", ExitCode.FAILED)
        except RuntimeError:  # of which all errors of torch's stores are
            return RankFailed("the launcher of the processes has ended", ExitCode.FAILED)
        return None

    def _is_gone(self, other: int) -> bool:
        """Whether a process of this machine is no more."""
        if not self._store.check([f"process/{other}"]):
            return False
        process = json.loads(self._store.get(f"process/{other}"))
        if process["machine"] != _machine():
            return False
        try:
            return psutil.Process(process["pid"]).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True
