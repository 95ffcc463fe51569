"""Waiting that ends, whatever the call does with errors."""

import signal
import threading
import time

import pytest

from tood.runtime.waiting import wait_for


def stubborn() -> str:
    """Waits, and takes every error for one of its own, as a reader of damaged images does."""
    try:
        time.sleep(20)
    except Exception:
        return "swallowed"
    return "slept"


def test_what_comes_in_time_is_returned():
    before = signal.getsignal(signal.SIGALRM)
    assert wait_for(lambda: 7, 5) == 7
    assert signal.getsignal(signal.SIGALRM) == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_no_handler_of_errors_keeps_a_wait_alive():
    with pytest.raises(TimeoutError, match="nothing came within 1 s"):
        wait_for(stubborn, 0.6)


def test_who_is_told_to_stop_does():
    asked = []
    assert wait_for(stubborn, 60, lambda: len(asked) > 1 or asked.append(1)) is None
    assert wait_for(stubborn, 60, lambda: True) is None


def test_away_from_the_main_thread_the_call_just_runs():
    found = []
    thread = threading.Thread(target=lambda: found.append(wait_for(lambda: 3, 5)))
    thread.start()
    thread.join()
    assert found == [3]
