"""Several processes of one training: the failure of one is that of all, and they have time to stop."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.trainer import Trainer, prepare

from tood.runtime import launch
from tood.runtime.failures import KILLED

REPOSITORY = Path(__file__).parents[2]
LAUNCHER = (sys.executable, "-m", "tood.runtime.launch", "--standalone", "--nproc-per-node")
# The model is one that may be divided among processes.
DIVISIBLE = {"model.train_cfg.initial_epoch": 100, "model.backbone.norm_eval": True}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return prepare(tmp_path_factory.mktemp("data"))


@pytest.fixture
def several(data, tmp_path) -> Callable[..., Trainer]:
    """Trains in some processes, one of which has a fault, and gives the run.

    All of them end: the launcher alone would wait for `SECONDS_TO_STOP`.
    """

    def train(number: int, fault: str, rank: int, *more: str) -> Trainer:
        trainer = Trainer(data, tmp_path / "run", run_options=DIVISIBLE)
        trainer.folder.mkdir()
        call = [*LAUNCHER, number, "tests/helpers/faulty_rank.py", fault, rank, 4, *trainer.arguments()]
        environment = os.environ | {"PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'tests'}"}
        with (trainer.folder / "log").open("w") as log:
            process = subprocess.Popen(
                list(map(str, [*call, *more])), cwd=REPOSITORY, env=environment, stdout=log, stderr=log
            )
        assert process.wait(240) == 1, trainer.log
        assert list(trainer.folder.glob("checkpoints/000000003.*"))
        return trainer

    return train


@pytest.mark.parametrize(
    ("number", "fault", "rank", "state", "reason"),
    [
        (2, "fail", 1, "failed", "a fault of this rank alone"),
        pytest.param(
            *(2, "stuck_exhaust_memory", 1, "oom", "out of memory; set micro_batch below the batch size"),
            marks=pytest.mark.slow,  # half a minute each
        ),
        pytest.param(
            *(2, "stuck_kill", 1, "failed", f"rank 1 ended without a word: {KILLED}"),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_the_failure_of_one_is_that_of_all_with_its_reason(several, number, fault, rank, state, reason):
    """Also where rank 0 waits in an operation that never ends, as those on a GPU do."""
    trainer = several(number, fault, rank)
    assert trainer.state["state"] == state, trainer.log
    assert trainer.state["reason"].startswith(reason)


@pytest.mark.slow
def test_a_divergence_that_one_rank_finds_is_one_of_the_training(several, tmp_path):
    """Of which the record is written, although rank 0 could not say anything itself."""
    record = tmp_path / "record.json"
    trainer = several(2, "stuck_diverge", 1, "--record", str(record))
    assert trainer.state["state"] == "diverged", trainer.log
    assert record.exists()


def test_processes_that_were_told_to_stop_have_minutes(monkeypatch):
    given = []
    monkeypatch.setattr(launch, "_close", lambda context, signal, timeout: given.append(timeout))
    monkeypatch.setattr(launch.PContext, "close", launch.PContext.close)
    launch.be_patient()
    launch.PContext.close(object(), signal.SIGUSR1)
    assert given == [launch.SECONDS_TO_STOP]
    assert launch.SECONDS_TO_STOP >= 300


SLOW_TO_STOP = """
import signal, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
def stop(number, frame):
    time.sleep(35)
    (folder / "saved").touch()
    sys.exit(1)
signal.signal(signal.SIGUSR1, stop)
(folder / "ready").touch()
time.sleep(100)
"""


@pytest.mark.slow  # torchrun's own patience is half a minute
def test_a_process_that_takes_longer_than_half_a_minute_to_save_is_not_killed(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SLOW_TO_STOP)
    call = [*LAUNCHER, "2", "--signals-to-handle", "SIGTERM,SIGUSR1", script, tmp_path]
    process = subprocess.Popen([*map(str, call)], cwd=REPOSITORY)
    while not (tmp_path / "ready").exists():
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGUSR1)
    process.wait(90)
    assert (tmp_path / "saved").exists()
