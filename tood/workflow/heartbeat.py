"""Warnings about trainings that have ended while the workflow still waits for them.

A trainer writes `state.json` every 10 seconds. On a cluster, the scheduler reports the end of a job. If this
report is lost, the workflow waits for ever and says nothing.
"""

import threading
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from tood.runtime.failures import State
from tood.runtime.run_state import HEARTBEAT_TIMEOUT, read_state, silence
from tood.study.plan import Training

# The workflow asks the scheduler at intervals of 3 minutes or less; then files may appear with a delay.
UNNOTICED_SECONDS = 10 * 60
SECONDS_BETWEEN_CHECKS = 60

HINT = (
    "if `squeue --me` does not show its job, the workflow waits in vain: press Ctrl-C once, which cancels "
    "the jobs of this call, and type the same command again; trainings resume"
)


def missed_ends(
    states: Mapping[Training, Mapping[str, Any]], waiting: Collection[Training], since: float, now: float
) -> dict[tuple[Training, float], str]:
    """Trainings that have ended, or seem to have, while the workflow waits for them.

    A training without a heartbeat since the start of the workflow may be in a queue and is left out.

    Args:
        states: content of each training's `state.json`.
        waiting: trainings that were submitted and whose end the workflow has not seen.
        since: start of the workflow in Unix seconds.
        now: present time in Unix seconds.

    Returns:
        A message for each, by training and time of its last heartbeat.
    """
    problems = {}
    for training, state in states.items():
        beat = state.get("updated") or 0.0
        if training not in waiting or beat < since:
            continue
        silent, name = now - beat, f"{training.run} seed {training.seed}"
        if state["state"] == State.RUNNING and silent > HEARTBEAT_TIMEOUT:
            problem = (
                f"{name}: no heartbeat for {silent / 60:.0f} minutes from process {state.get('pid')} on "
                f"{state.get('host')}, the last at iteration {state.get('iteration') or 0}"
            )
        elif state["state"] == State.DONE and silent > UNNOTICED_SECONDS:
            problem = f"{name}: done {silent / 60:.0f} minutes ago, but the scheduler has not reported it"
        else:
            continue
        problems[training, beat] = f"{problem}; {HINT}"
    return problems


def awaited(jobs: Collection[Any]) -> set[Training]:
    """The trainings among Snakemake's jobs, which were submitted and have not been seen to end."""
    # A copy, as the scheduler changes them in another thread
    jobs = [job for job in tuple(jobs) if job.name == "train"]
    return {Training(job.wildcards.run, int(job.wildcards.seed)) for job in jobs}


def read_states(folder: Path) -> dict[Training, dict]:
    """Every RUN/seedK/state.json below `folder` that can be read; no `updated` is in the future."""
    states, now = {}, time.time()
    for path in folder.glob("*/seed*/state.json"):
        if state := read_state(path):  # if not, the next check reads it
            if (updated := state.get("updated") or 0.0) > now:
                state["updated"] = max(now - silence(path, updated, now), 0.0)
            seed = path.parts[-2].removeprefix("seed")
            if seed.isdecimal():
                states[Training(path.parts[-3], int(seed))] = state
    return states


def watch(
    folder: Path,
    waiting: Callable[[], Collection[Training]],
    say: Callable[[str], object],
    seconds: float = SECONDS_BETWEEN_CHECKS,
) -> None:
    """Check the states of a study until the program ends; report each problem once.

    Args:
        folder: folder of the study's runs.
        waiting: returns the present argument `waiting` of `missed_ends`.
        say: takes each message.
        seconds: time between two checks.
    """
    since = time.time()

    def check() -> None:
        reported: set = set()
        while True:
            time.sleep(seconds)
            for key, problem in missed_ends(read_states(folder), waiting(), since, time.time()).items():
                if key not in reported:
                    reported.add(key)
                    say(problem)

    threading.Thread(target=check, name="heartbeat", daemon=True).start()
