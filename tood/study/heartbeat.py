"""Trainings whose end the workflow would miss: their heartbeats against what it waits for.

A trainer writes `state.json` every 10 seconds. Where the workflow learns of a job's end from a cluster's
scheduler, that news can get lost, and the workflow then waits for ever without a word.
"""

import threading
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from tood.runtime.run_state import HEARTBEAT_TIMEOUT, read_state

# The scheduler is asked every 3 minutes at least; then files may take a while to appear.
UNNOTICED_SECONDS = 10 * 60
SECONDS_BETWEEN_LOOKS = 60

HINT = (
    "if `squeue --me` does not show its job, nothing more will come of waiting: press Ctrl-C once, which "
    "cancels the jobs of this call, and type the same command again; trainings resume"
)

RunAndSeed = tuple[str, str]  # run, seed


def missed_ends(
    states: Mapping[RunAndSeed, Mapping[str, Any]], waiting: Collection[RunAndSeed], since: float, now: float
) -> dict[tuple[RunAndSeed, float], str]:
    """What is amiss with the trainings that the workflow waits for.

    A training that showed no life since the workflow began waiting may stand in a queue: nothing is said.

    Args:
        states: content of each training's `state.json`.
        waiting: trainings that the workflow has submitted and not seen end.
        since: when the workflow began, as a Unix time in seconds.
        now: likewise.

    Returns:
        A sentence for each, by training and by the time of its last heartbeat.
    """
    found = {}
    for (run, seed), state in states.items():
        beat = state.get("updated", 0.0)
        if (run, seed) not in waiting or beat < since:
            continue
        silence, name = now - beat, f"{run} seed {seed}"
        if state["state"] == "running" and silence > HEARTBEAT_TIMEOUT:
            problem = (
                f"{name}: no heartbeat for {silence / 60:.0f} minutes from process {state['pid']} on "
                f"{state['host']}, the last at iteration {state['iteration'] or 0}"
            )
        elif state["state"] == "done" and silence > UNNOTICED_SECONDS:
            problem = f"{name}: done {silence / 60:.0f} minutes ago, but the scheduler has not said so"
        else:
            continue
        found[(run, seed), beat] = f"{problem}; {HINT}"
    return found


def read_states(folder: Path) -> dict[RunAndSeed, dict]:
    """Every RUN/seedK/state.json below `folder` that can be read."""
    states = {}
    for path in folder.glob("*/seed*/state.json"):
        if state := read_state(path):  # if not, the next look will do
            states[path.parts[-3], path.parts[-2].removeprefix("seed")] = state
    return states


def watch(
    folder: Path,
    waiting: Callable[[], Collection[RunAndSeed]],
    say: Callable[[str], object],
    seconds: float = SECONDS_BETWEEN_LOOKS,
) -> None:
    """Look every so many seconds until the program ends, and say once what is found.

    Args:
        folder: of the study's runs.
        waiting: as in `missed_ends`, as of the call.
        say: takes each sentence.
        seconds: between looks.
    """
    since = time.time()

    def look() -> None:
        said: set = set()
        while True:
            time.sleep(seconds)
            for key, problem in missed_ends(read_states(folder), waiting(), since, time.time()).items():
                if key not in said:
                    said.add(key)
                    say(problem)

    threading.Thread(target=look, name="heartbeat", daemon=True).start()
