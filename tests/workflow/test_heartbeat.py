"""A training whose end the scheduler does not report is noticed, once, and others are left alone."""

import os
import threading
import time
from types import SimpleNamespace

import pytest

from tood.runtime.files import write_json
from tood.runtime.run_state import HEARTBEAT_TIMEOUT
from tood.study.plan import Training
from tood.workflow.heartbeat import UNNOTICED_SECONDS, awaited, missed_ends, read_states, watch

SINCE, NOW = 1_000_000.0, 1_100_000.0
TOOD = Training("tood_af", 0)


def state(silence: float, name: str = "running") -> dict:
    """As of a trainer that wrote it `silence` seconds ago."""
    of_trainer = {"pid": 4711, "host": "node7", "iteration": 500}
    return {"state": name, "updated": NOW - silence, **of_trainer}


def missed(content: dict, waiting=(TOOD,), since: float = SINCE) -> list[str]:
    return list(missed_ends({TOOD: content}, waiting, since, NOW).values())


def test_a_silent_trainer_is_named_with_what_to_do():
    (problem,) = missed(state(HEARTBEAT_TIMEOUT + 60))
    assert problem.startswith(
        "tood_af seed 0: no heartbeat for 6 minutes from process 4711 on node7, the last at iteration 500; "
    )
    assert all(part in problem for part in ("`squeue --me`", "Ctrl-C once", "type the same command again"))


def test_jobs_that_the_scheduler_adds_meanwhile():
    class Job:
        wildcards = SimpleNamespace(run="tood_af", seed="0")

        @property
        def name(self) -> str:
            jobs.add(Job())  # as in another thread
            return "train"

    jobs = {Job()}
    assert awaited(jobs) == {TOOD}
    assert awaited([SimpleNamespace(name="evaluate", wildcards=Job.wildcards)]) == set()


def test_an_end_that_the_scheduler_keeps_to_itself():
    (problem,) = missed(state(UNNOTICED_SECONDS + 60, "done"))
    assert problem.startswith("tood_af seed 0: done 11 minutes ago, but the scheduler has not reported it; ")


@pytest.mark.parametrize(
    ("content", "waiting", "since"),
    [
        (state(HEARTBEAT_TIMEOUT - 1), [TOOD], SINCE),
        (state(UNNOTICED_SECONDS - 1, "done"), [TOOD], SINCE),
        (state(HEARTBEAT_TIMEOUT + 1), [("tood_af", 1), ("atss_af", 0)], SINCE),
        (state(HEARTBEAT_TIMEOUT + 1), [TOOD], NOW - HEARTBEAT_TIMEOUT),  # of an earlier call; queued in this
        (state(UNNOTICED_SECONDS + 1, "failed"), [TOOD], SINCE),  # queued again
        ({"state": "running"}, [TOOD], SINCE),
    ],
    ids=["alive", "just done", "not awaited", "of an earlier call", "to be tried again", "without heartbeat"],
)
def test_nothing_is_said_of(content, waiting, since):
    assert missed(content, waiting, since) == []


def test_states_are_read_by_run_and_seed_and_half_of_one_is_passed_over(tmp_path):
    write_json(tmp_path / "tood_af/seed0/state.json", {"state": "done"})
    (tmp_path / "tood_af/seed12").mkdir()
    (tmp_path / "tood_af/seed12/state.json").write_text('{"state": "ru')
    assert read_states(tmp_path) == {TOOD: {"state": "done"}}


def test_the_watch_says_it_once_for_each_silence(tmp_path, monkeypatch):
    monkeypatch.setattr("tood.workflow.heartbeat.HEARTBEAT_TIMEOUT", 0.2)
    said, checks, path = [], [], tmp_path / "tood_af/seed0/state.json"

    def awaited() -> list:
        checks.append(time.time())
        return [TOOD]

    def wait_until(fact) -> None:
        deadline = time.monotonic() + 10
        while not fact():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    watch(tmp_path, awaited, said.append, seconds=0.1)
    for silences in (1, 2):
        write_json(path, state(0) | {"updated": time.time()})
        wait_until(lambda: len(said) == silences)  # noqa: B023
        seen = len(checks)
        wait_until(lambda: len(checks) > seen + 2)  # noqa: B023
        assert len(said) == silences
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "heartbeat"]
    assert thread.daemon  # it does not keep the program from ending


def test_a_clock_that_is_ahead_does_not_hide_a_silent_trainer(tmp_path):
    path = tmp_path / "tood_af/seed0/state.json"
    write_json(path, state(0) | {"updated": time.time() + 86_400})
    written = time.time() - HEARTBEAT_TIMEOUT - 60
    os.utime(path, (written, written))
    (problem,) = missed_ends(read_states(tmp_path), [TOOD], written - 1, time.time()).values()
    assert "no heartbeat for 6 minutes" in problem
