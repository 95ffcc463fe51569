"""Waiting that ends: a call that may never return is left when its time is up, or when a signal came."""

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import TypeVar

_Result = TypeVar("_Result")
_SECONDS_BETWEEN_LOOKS = 0.5


class _Stopped(BaseException):
    """Raised inside of the call, through everything that catches an `Exception`."""


class _TimeIsUp(_Stopped):
    """The same, as the time is up."""


def wait_for(
    action: Callable[[], _Result], seconds: float, stop: Callable[[], bool] = lambda: False
) -> _Result | None:
    """The result of a call; None as soon as `stop` says so.

    A timer of the system interrupts the call wherever it waits: for another process, a lock or a pipe. Away
    from the main thread, which alone takes signals, nothing interrupts it.

    Args:
        action: the call. What it leaves half done must not be used again after an interruption.
        seconds: longest time that it may take.
        stop: whether to leave it; asked twice a second.

    Raises:
        TimeoutError: the time is up.
    """
    if stop():
        return None
    if threading.current_thread() is not threading.main_thread():
        return action()
    end, ended = time.monotonic() + seconds, False

    def look(number: int, frame: FrameType | None) -> None:
        if ended:
            return
        if stop():
            raise _Stopped
        if time.monotonic() > end:
            raise _TimeIsUp

    before = signal.signal(signal.SIGALRM, look)
    try:
        signal.setitimer(signal.ITIMER_REAL, min(_SECONDS_BETWEEN_LOOKS, seconds), _SECONDS_BETWEEN_LOOKS)
        result = action()
        ended = True
        return result
    except _TimeIsUp:
        raise TimeoutError(f"nothing came within {seconds:.0f} s") from None
    except _Stopped:
        return None
    finally:
        ended = True
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
