"""Locks of runs, studies and files; `tests/engine/test_faults.py` kills processes that hold them."""

import json
import multiprocessing
import os
import socket
import subprocess
import sys
import time

import pytest

from tood.runtime import locks
from tood.runtime.failures import Held, Interrupted
from tood.runtime.locks import FolderLock, claim, hold_study, is_held, try_lock
from tood.runtime.run_state import HEARTBEAT_TIMEOUT, RunState
from tood.study.paths import REPOSITORY


def hold(folder, ready, end):
    """Hold a study in another process."""
    lock = hold_study(folder)
    ready.set()
    end.wait(60)
    os._exit(int(lock is None))  # without any clean-up


@pytest.fixture
def other(tmp_path):
    """Another process that holds tmp_path, and the event that ends it."""
    context = multiprocessing.get_context("spawn")
    ready, end = context.Event(), context.Event()
    process = context.Process(target=hold, args=(tmp_path, ready, end))
    process.start()
    assert ready.wait(60)
    yield process, end
    end.set()
    process.join()


def test_a_study_is_held_by_one_process_and_freed_by_its_end(tmp_path, other):
    process, end = other
    message = rf"process {process.pid} on {socket.gethostname()} .* works on this study.*--config name=NAME"
    with pytest.raises(Held, match=message):
        hold_study(tmp_path)
    assert try_lock(tmp_path / "lock") is None
    end.set()
    process.join()
    assert (tmp_path / "lock.json").exists()  # what it left
    lock = hold_study(tmp_path)
    assert json.loads((tmp_path / "lock.json").read_text())["pid"] == os.getpid()
    lock.close()
    assert not (tmp_path / "lock.json").exists()
    hold_study(tmp_path).close()


def test_a_study_has_no_heartbeat_that_a_dead_holder_elsewhere_could_be_judged_by(tmp_path):
    (tmp_path / "lock.json").write_text(json.dumps({"pid": 7, "host": "elsewhere", "since": 4e9}))
    lock = hold_study(tmp_path)
    assert json.loads((tmp_path / "lock.json").read_text())["pid"] == os.getpid()
    lock.close()


def test_a_holder_elsewhere_is_judged_by_its_heartbeat(tmp_path):
    """On a file system that does not lock across hosts."""
    (tmp_path / "lock.json").write_text(json.dumps({"pid": 7, "host": "elsewhere", "since": 0}))
    state = RunState(tmp_path / "state.json", "fingerprint")
    with pytest.raises(Held, match="process 7 on elsewhere"), claim(tmp_path, wait=0):
        pass
    assert (tmp_path / "lock.json").exists()  # of the other, hence left alone
    state.content["updated"] -= HEARTBEAT_TIMEOUT
    (tmp_path / "state.json").write_text(json.dumps(state.content))
    with claim(tmp_path, wait=0):
        assert json.loads((tmp_path / "lock.json").read_text())["pid"] == os.getpid()
    assert not (tmp_path / "lock.json").exists()


def test_waiting_can_be_stopped(tmp_path):
    with claim(tmp_path), pytest.raises(Interrupted), claim(tmp_path, stop=lambda: True, say=print):
        pass


def test_a_second_claim_says_once_whom_it_waits_for_and_leaves_the_first_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "_SECONDS_BETWEEN_TRIES", 0.01)
    said, tries = [], iter([False, False, False, True])
    with claim(tmp_path):
        with pytest.raises(Interrupted), claim(tmp_path, stop=lambda: next(tries), say=said.append):
            pass
        assert try_lock(tmp_path / "lock") is None
        assert (tmp_path / "lock.json").exists()
    (message,) = said
    assert f"process {os.getpid()} on {socket.gethostname()} (since " in message
    assert "waiting for it to end" in message


def test_a_holder_that_cannot_be_written_down_frees_the_lock(tmp_path, monkeypatch):
    def full(path, value):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(locks, "write_json", full)
        with pytest.raises(OSError, match="No space left"), claim(tmp_path):
            pass
        with pytest.raises(OSError, match="No space left"):
            hold_study(tmp_path)
    assert FolderLock(tmp_path).acquire() is None


def left_by(folder, host: str, ahead: float, silence: float) -> None:
    """What a holder on another host left that was killed `silence` seconds ago, and its clock was ahead."""
    written = time.time() - silence
    for name, content in (
        ("lock.json", {"pid": 7, "host": host, "since": written + ahead}),
        ("state.json", {"state": "running", "updated": written + ahead}),
    ):
        (folder / name).write_text(json.dumps(content))
        os.utime(folder / name, (written, written))


@pytest.mark.parametrize("ahead", [0, 60, 3600, 10 * 365 * 86400])
def test_a_dead_holder_whose_clock_was_ahead_is_dead(tmp_path, ahead):
    left_by(tmp_path, "elsewhere", ahead, HEARTBEAT_TIMEOUT + ahead % 3600 + 1)
    with claim(tmp_path, wait=0):
        assert json.loads((tmp_path / "lock.json").read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("ahead", [0, 60, 3600, 86400])
def test_a_living_holder_whose_clock_is_ahead_lives(tmp_path, ahead):
    left_by(tmp_path, "elsewhere", ahead, 5)
    with pytest.raises(Held, match="process 7 on elsewhere"), claim(tmp_path, wait=0):
        pass


def test_a_heartbeat_that_no_file_system_gave_counts_for_nothing(tmp_path):
    left_by(tmp_path, "elsewhere", 86400, -86400)  # files of tomorrow
    with claim(tmp_path, wait=0):
        assert json.loads((tmp_path / "lock.json").read_text())["pid"] == os.getpid()


def test_two_clones_that_share_their_results_are_kept_apart(tmp_path):
    shared = tmp_path / "shared"
    for clone in ("a", "b"):
        (tmp_path / clone).mkdir()
        (tmp_path / clone / "results").symlink_to(shared, target_is_directory=True)
    shared.mkdir()
    (shared / "x").mkdir()
    (shared / "x" / "metrics.csv").write_text("of the first")
    first = hold_study(tmp_path / "a/work/x", tmp_path / "a/results/x")
    with pytest.raises(Held, match=rf"b/results/x: process {os.getpid()} on .* works on this study"):
        hold_study(tmp_path / "b/work/x", tmp_path / "b/results/x")
    assert not is_held(tmp_path / "b/work/x")  # given back
    hold_study(tmp_path / "b/work/y", tmp_path / "b/results/y").close()
    first.close()
    hold_study(tmp_path / "b/work/x", tmp_path / "b/results/x").close()
    assert [path.name for path in (shared / "x").iterdir()] == ["metrics.csv"]


def test_git_does_not_see_the_lock_of_results():
    call = ["git", "check-ignore", "results/mini/.lock", "results/paper/.lock.json"]
    if (REPOSITORY / ".git").exists():
        assert subprocess.run(call, cwd=REPOSITORY, capture_output=True).returncode == 0


def test_a_look_at_a_lock_keeps_nobody_from_it(tmp_path):
    assert not is_held(tmp_path)
    with claim(tmp_path):
        assert is_held(tmp_path)
    assert not is_held(tmp_path)
    look = (
        "import sys, pathlib; from tood.runtime.locks import is_held\n"
        "while True: is_held(pathlib.Path(sys.argv[1]))"
    )
    with subprocess.Popen([sys.executable, "-c", look, str(tmp_path)]) as other:
        time.sleep(1)
        try:
            for _ in range(50):
                with claim(tmp_path, wait=0):
                    pass
        finally:
            other.kill()
