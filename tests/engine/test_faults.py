"""What can stop a training, for real where a process must die, and how the next call goes on."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers.trainer import ITERATIONS, Trainer, prepare
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from tood.engine.checkpoint import CheckpointError, Checkpoints, restore, training_state
from tood.ledger.provenance import digest
from tood.runtime.event_files import EventFiles
from tood.runtime.failures import ExitCode, exit_code, reason
from tood.runtime.run_state import RunState, read_state
from tood.study.paths import RunPaths

DONE = ExitCode.DONE


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory) -> Trainer:
    trainer = Trainer(data, tmp_path_factory.mktemp("undisturbed"))
    assert trainer.run() == DONE, trainer.log
    return trainer


@pytest.fixture
def trainer(data, tmp_path) -> Trainer:
    return Trainer(data, tmp_path / "run")


def assert_goes_on(trainer: Trainer, undisturbed: Trainer, resumed_from: int | None, **execution) -> None:
    """The second call ends with every bit as without the first."""
    assert trainer.run(**execution) == DONE, trainer.log
    state = trainer.state
    assert (state["state"], state["attempt"], state["resumed_from"]) == ("done", 2, resumed_from)
    assert trainer.result == undisturbed.result
    assert [path.name.split(".")[0] for path in trainer.checkpoints] == ["final"]


def iterations(trainer: Trainer) -> list[str]:
    return [path.name.split(".")[0] for path in trainer.checkpoints]


# Going on


def test_an_undisturbed_training(undisturbed):
    entries = [json.loads(line) for line in undisturbed.result[1].splitlines()]
    assert [entry["iteration"] for entry in entries] == [5, 10, ITERATIONS]
    state = undisturbed.state
    assert (state["state"], state["attempt"], state["resumed_from"]) == ("done", 1, None)
    assert (state["run"], state["seed"], state["device"]) == ("tood_af", 0, "cpu")
    truth = json.loads((undisturbed.data / "annotations/instances_train2017.json").read_text())
    images = len({annotation["image_id"] for annotation in truth["annotations"]})
    assert state["images"] == 2 * images + 2 * 4  # two epochs of five iterations, and two more
    assert (state["epoch"], state["iteration"], state["iterations"]) == (3, ITERATIONS, ITERATIONS)
    assert state["host"] == socket.gethostname()


@pytest.mark.parametrize(("at", "resumed_from"), [(0, None), (4, 3), (10, 10)])
def test_killed(trainer, undisturbed, at, resumed_from):
    assert trainer.run(fault="kill", at=at) == -signal.SIGKILL
    assert (trainer.state["state"], trainer.model.exists()) == ("running", False)
    assert_goes_on(trainer, undisturbed, resumed_from)


def test_event_files_show_the_log_also_after_a_kill(trainer, undisturbed):
    assert trainer.run(fault="kill", at=11, logger="tensorboard") == -signal.SIGKILL
    assert_goes_on(trainer, undisturbed, 10, logger="tensorboard")
    shown = EventAccumulator(str(RunPaths(trainer.folder).event_files)).Reload()
    entries = [json.loads(line) for line in trainer.result[1].splitlines()]
    for tag, name in (
        ("loss/loss_cls", "loss_cls"),
        ("training/lr", "lr"),
        ("training/positives", "positives"),
    ):
        found = [(event.step, event.value) for event in shown.Scalars(tag)]
        assert found == [(entry["iteration"], pytest.approx(entry[name])) for entry in entries]
    columns = {name for entry in entries for name, value in entry.items() if value is not None}
    assert {tag.split("/")[1] for tag in shown.Tags()["scalars"]} == columns - {"iteration"}


def test_event_files_without_their_package(trainer, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(RuntimeError, match="logger=tensorboard: the package tensorboard is not installed"):
        EventFiles(trainer.folder, 0)


@pytest.mark.slow
@pytest.mark.parametrize("at", range(ITERATIONS))
def test_killed_anywhere(trainer, undisturbed, at):
    """With a checkpoint after every iteration, so that each is gone on from. Half of them have loaders."""
    execution = {"workers": 2 * (at % 2), "checkpoint_iterations": 1}
    assert trainer.run(fault="kill", at=at, **execution) == -signal.SIGKILL
    assert_goes_on(trainer, undisturbed, at or None, **execution)


def test_killed_while_it_saves(trainer, undisturbed):
    """Between the content of a checkpoint and its name: the one before counts."""
    assert trainer.run(fault="kill_in_next_save", at=5) == -signal.SIGKILL
    partial, *whole = trainer.checkpoints
    assert partial.name.startswith(".000000006.")
    assert [path.name.split(".")[0] for path in whole] == ["000000003", "000000005"]
    assert_goes_on(trainer, undisturbed, 5)


@pytest.mark.parametrize("fault", ["terminate", "warn_of_time"])
def test_signalled(trainer, undisturbed, fault):
    assert trainer.run(fault=fault, at=6) == ExitCode.INTERRUPTED == 143, trainer.log
    assert trainer.state["state"] == "interrupted"
    assert "after 7 of 12 iterations; start again" in trainer.state["reason"]
    assert_goes_on(trainer, undisturbed, 7)


def test_a_signal_to_loaders_and_reader_too(trainer, undisturbed):
    """`tee` dies before the last message, and the loaders must not take the training with them."""
    assert trainer.run(workers=2, fault="signal_to_all", at=6) == ExitCode.INTERRUPTED, trainer.log
    assert "to nobody" not in trainer.log
    assert trainer.state["state"] == "interrupted"
    assert_goes_on(trainer, undisturbed, 7, workers=2)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def test_damaged_checkpoints(trainer, undisturbed):
    assert trainer.run(fault="kill", at=7) == -signal.SIGKILL
    older, newest = trainer.checkpoints
    flip_a_bit(newest)
    assert_goes_on(trainer, undisturbed, 5)
    assert f"{newest}: damaged checkpoint" in trainer.log
    assert older.name.startswith("000000005.")


def test_a_full_disk(trainer, undisturbed):
    assert trainer.run(fault="fill_disk", at=5) == ExitCode.FAILED
    assert iterations(trainer) == ["000000003", "000000005"]
    state = trainer.state
    assert state["state"] == "failed"
    for part in (
        str(trainer.folder / "checkpoints"),
        "File too large",
        "MiB are free there; free some space",
    ):
        assert part in state["reason"]
        assert part in trainer.log
    assert "Traceback" not in trainer.log
    assert_goes_on(trainer, undisturbed, 5)


def test_out_of_memory(trainer, undisturbed):
    assert trainer.run(fault="exhaust_gpu", at=4) == ExitCode.OUT_OF_MEMORY
    assert trainer.state["state"] == "oom"
    assert "micro_batch below the batch size" in trainer.state["reason"]
    assert "Traceback" not in trainer.log
    assert_goes_on(trainer, undisturbed, 3)


def test_out_of_memory_on_a_cpu(tmp_path):
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert exit_code(caught.value) == ExitCode.OUT_OF_MEMORY
    assert "micro_batch below 4" in reason(caught.value, tmp_path, 4)


def test_diverged(trainer):
    """Tried once, until something else is to be trained."""
    assert trainer.run(fault="spoil", at=4) == ExitCode.DIVERGED, trainer.log
    state = trainer.state
    assert state["state"] == "diverged"
    assert "nan at iteration 4 (epoch 0, lr 0.0033" in state["reason"]
    assert state["reason"].endswith("fresh=true to force it")
    assert f"delete {trainer.folder} and call with runs=" in state["reason"]
    assert trainer.run(fault="fail") == ExitCode.DIVERGED, trainer.log
    assert trainer.state == state
    assert trainer.log.count(state["reason"]) == 2
    assert trainer.run(seed=1) == DONE, trainer.log
    assert "checkpoints of another configuration, code or data are not used" in trainer.log
    assert (trainer.state["attempt"], trainer.state["resumed_from"]) == (1, None)


def test_a_finished_run_is_not_trained_again(trainer, undisturbed):
    """As Snakemake does it, which deletes the output before the job starts."""
    assert trainer.run() == DONE
    weights, state = trainer.model.read_bytes(), trainer.state
    trainer.model.unlink()
    assert trainer.run(fault="fail") == DONE, trainer.log
    assert (trainer.model.read_bytes(), trainer.state) == (weights, state)
    assert trainer.run(code="other", fault="fail") == ExitCode.FAILED  # which is the fault's: it trained


# One at a time


def test_two_processes(trainer, undisturbed):
    """One more is refused or waits, and takes over what the first trained."""
    first = trainer.start(seconds=0.3)
    trainer.wait_for("state.json", first)
    owner = json.loads((trainer.folder / "lock.json").read_text())
    assert (owner["pid"], owner["host"]) == (first.pid, socket.gethostname())
    assert trainer.run(wait=False, fault="fail") == ExitCode.HELD
    assert f"process {first.pid} on {socket.gethostname()}" in trainer.log
    assert trainer.state["pid"] == first.pid
    assert trainer.run(fault="fail") == DONE, trainer.log
    assert "waiting for it to end" in trainer.log
    first.join(1)
    assert first.exitcode == DONE
    assert trainer.result == undisturbed.result
    assert not (trainer.folder / "lock.json").exists()


def test_the_lock_of_a_dead_process_is_free(trainer, undisturbed):
    first = trainer.start(workers=2, seconds=0.3)
    trainer.wait_for("checkpoints/000000003.*", first)
    os.kill(first.pid, signal.SIGKILL)
    first.join()
    assert (trainer.folder / "lock.json").exists()
    assert_goes_on(trainer, undisturbed, 3)


# What trains as the step `train` does, slowly
SLOW = Path(__file__).parents[1] / "helpers" / "faulty_rank.py"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_several_processes_stop_together_and_go_on(data, tmp_path, number):
    """The launcher is told to stop; then one process alone ends what two began, with the same losses."""
    # Large steps, and assignment by predictions, make much of the last bit of float32, in which they differ.
    smooth = {"model.train_cfg.initial_epoch": 100, "train.lr": 1e-3, "model.backbone.norm_eval": True}
    alone, several = (Trainer(data, tmp_path / name, 30, smooth) for name in ("alone", "several"))
    assert alone.run() == DONE, alone.log
    several.folder.mkdir()
    launcher = [sys.executable, "-m", "tood.runtime.launch", "--standalone", "--nproc-per-node", "2"]
    launcher += ["--signals-to-handle", "SIGTERM,SIGUSR1", SLOW, "slow", "0", "0"]
    with (several.folder / "log").open("w") as log:
        process = subprocess.Popen([*launcher, *several.arguments()], stdout=log, stderr=log)
    deadline = time.monotonic() + 120
    while not list(several.folder.glob("checkpoints/*.pth")):
        assert process.poll() is None, several.log
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(60) != 0
    state = several.state
    assert (state["state"], state["device"]) == ("interrupted", "cpu x2"), several.log
    assert 3 <= state["iteration"] < 30
    assert several.run(micro_batch=1) == DONE, several.log
    assert several.state["resumed_from"] == state["iteration"]
    losses = [
        [json.loads(line)["loss"] for line in (trainer.folder / "losses.jsonl").read_text().splitlines()]
        for trainer in (alone, several)
    ]
    assert len(losses[0]) == 6
    assert losses[0] == pytest.approx(losses[1], rel=5e-3)


# Checkpoints


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = nn.Linear(4, 4)
    return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


@pytest.fixture
def store(tmp_path):
    messages = []
    checkpoints = Checkpoints(tmp_path / "checkpoints", digest({"seed": 0}), 10, warn=messages.append)
    return checkpoints, messages


def names(checkpoints: Checkpoints) -> list[int]:
    return [int(path.name.split(".")[0]) for path in sorted(checkpoints.folder.glob("*.pth"))]


def test_two_checkpoints_are_kept(store):
    checkpoints, _ = store
    for iteration in (1, 2, 3):
        checkpoints.save(iteration, {"iteration": iteration})
        assert names(checkpoints) == [1, 2, 3][max(0, iteration - 2) : iteration]
    assert checkpoints.load() == {"iteration": 3}


@pytest.mark.parametrize("damage", [cut_short, flip_a_bit, empty])
def test_a_damaged_checkpoint(store, damage):
    checkpoints, messages = store
    for iteration in (1, 2):
        checkpoints.save(iteration, {"iteration": iteration, "tensor": torch.zeros(1000)})
    _, newest = sorted(checkpoints.folder.iterdir())
    damage(newest)
    assert checkpoints.load()["iteration"] == 1
    assert messages == [f"{newest}: damaged checkpoint, the one before it is used"]
    checkpoints.save(2, {"iteration": 2, "tensor": torch.ones(1000)})
    assert checkpoints.load()["tensor"].all()
    for path in checkpoints.folder.iterdir():
        damage(path)
    with pytest.raises(CheckpointError, match=rf"{checkpoints.folder}: all .* damaged; delete the folder"):
        checkpoints.load()


def test_a_damaged_checkpoint_does_not_push_out_a_whole_one(store):
    checkpoints, _ = store
    for iteration in (10, 20):
        checkpoints.save(iteration, {})
    empty(sorted(checkpoints.folder.iterdir())[1])
    checkpoints.save(15, {})
    assert names(checkpoints) == [10, 15]


def test_a_failed_write_leaves_the_older_ones(store, monkeypatch):
    checkpoints, _ = store
    checkpoints.save(1, {"iteration": 1})
    before = {path: path.read_bytes() for path in checkpoints.folder.iterdir()}

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        CheckpointError, match=r"checkpoints: .*No space left.*MiB are free there; free some space"
    ):
        checkpoints.save(2, {"iteration": 2})
    assert {path: path.read_bytes() for path in checkpoints.folder.iterdir()} == before


def test_another_fingerprint_starts_over(store, tmp_path):
    checkpoints, _ = store
    checkpoints.save(1, {"iteration": 1})
    checkpoints.finish({"iteration": 2})
    checkpoints.save(3, {"iteration": 3})
    messages = []
    other = Checkpoints(checkpoints.folder, digest({"seed": 1}), 10, warn=messages.append)
    assert (other.load(), other.finished()) == (None, None)
    assert "of another configuration, code or data" in messages[0]
    assert checkpoints.load() == {"iteration": 3}
    other.save(1, {})
    assert names(other) == [1]


def test_checkpoints_are_due_by_iterations_and_by_time(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    checkpoints = Checkpoints(tmp_path, "fingerprint", minutes=2, iterations=5)
    assert [i for i in range(1, 12) if checkpoints.due(i)] == [5, 10]
    now[0] = 121.0
    assert checkpoints.due(1)
    checkpoints.save(1, {})
    assert not checkpoints.due(2)


def test_optimiser_and_generators_come_back(model, store, tmp_path):
    import random

    import numpy as np

    network, optimizer = model
    checkpoints, _ = store

    def step() -> list:
        optimizer.zero_grad()
        network(torch.rand(2, 4)).sum().backward()
        optimizer.step()
        draws = [random.random(), np.random.rand(), torch.rand(1)]  # noqa: NPY002
        return [*map(torch.as_tensor, draws), *(p.detach().clone() for p in network.parameters())]

    step()
    checkpoints.save(1, training_state(network, optimizer))
    expected = [step(), step()]
    restore(checkpoints.load(), network, optimizer)
    for before, after in zip(expected, [step(), step()], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_state(tmp_path, monkeypatch):
    """Attempts at the same thing are counted, and writing is not for every iteration."""
    path, now = tmp_path / "state.json", [1000.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    state = RunState(path, "a", run="tood_af", seed=0)
    state.beat(iteration=1)
    assert read_state(path)["iteration"] is None
    now[0] += 10
    state.beat(iteration=2)
    assert (read_state(path)["iteration"], read_state(path)["updated"]) == (2, 1010)
    assert RunState(path, "a").content["attempt"] == 2
    assert RunState(path, "b").content["attempt"] == 1
    path.write_text("{")
    assert RunState(path, "b").content["attempt"] == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize("workers", [0, 1])
def test_signalled_while_it_waits_for_a_batch(trainer, number, workers):
    process = trainer.start(fault="loading_hangs", workers=workers)
    trainer.wait_for("checkpoints/000000005.*", process)
    time.sleep(0.5)
    os.kill(process.pid, number)
    process.join(60)
    assert process.exitcode == 143, trainer.log
    assert trainer.state["state"] == "interrupted"
    assert any(path.name.startswith("000000005.") for path in trainer.checkpoints)
