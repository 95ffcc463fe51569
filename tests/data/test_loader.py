"""Batches that other processes load: what they send, and what ends a wait for them."""

import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import cv2
import pytest
import torch
from mmengine.dataset import pseudo_collate
from torch.utils.data import Dataset

from tood.data import loader as module
from tood.data.loader import LoaderError, batches_of, make_loader

REPOSITORY = Path(__file__).parents[2]


class ThreadsOfWorker(Dataset):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> dict:
        return {"opencv": cv2.getNumThreads(), "torch": torch.get_num_threads()}


@pytest.mark.parametrize("leave_signals", [False, True])
def test_a_loading_process_has_one_thread(leave_signals):
    before = cv2.getNumThreads()
    cv2.setNumThreads(2)
    try:
        (batch,) = batches(ThreadsOfWorker(), 1, leave_signals=leave_signals)
        assert cv2.getNumThreads() == 2  # here
    finally:
        cv2.setNumThreads(before)
    assert batch == {"opencv": [1], "torch": [1]}


class Sleeping(Dataset):
    """A file system that never answers."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict:
        time.sleep(1000)
        raise AssertionError


class Images(Dataset):
    """As large as photographs, each with several tensors."""

    def __init__(self, tensors: int = 1, fault: str = "") -> None:
        self.tensors, self.fault = tensors, fault

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict:
        if self.fault == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fault == "bus error":
            os.kill(os.getpid(), signal.SIGBUS)
        return {str(number): torch.full((3, 300, 400), index) for number in range(self.tensors)}


def batches(dataset: Dataset, workers: int, **options):
    return batches_of(make_loader(dataset, workers, pseudo_collate, batch_size=4, **options))


def children() -> list:
    return multiprocessing.active_children()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_that_never_comes_ends_the_wait(monkeypatch, workers):
    monkeypatch.setattr(module, "LONGEST_WAIT", 1.0)
    with pytest.raises(LoaderError, match=r"nothing came within 1 s.*`workers`"):
        next(batches(Sleeping(), workers, leave_signals=True))
    assert children() == []


@pytest.mark.parametrize("workers", [0, 2])
def test_a_request_to_stop_ends_the_wait(workers):
    came = threading.Event()
    threading.Timer(0.5, came.set).start()
    loader = make_loader(Sleeping(), workers, pseudo_collate, leave_signals=True, batch_size=4)
    with closing(batches_of(loader, came.is_set)) as waiting:
        assert next(waiting) is None
    assert children() == []


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_what_loading_processes_send_is_what_they_loaded(workers):
    received = list(batches(Images(tensors=3), workers))
    assert [[int(image[0, 0, 0]) for image in batch["2"]] for batch in received] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
    ]
    assert received[0]["0"][0].shape == (3, 300, 400)
    assert children() == []


@pytest.mark.parametrize(
    ("fault", "hint"), [("killed", "memory ran out; raise mem_mb"), ("bus error", "enlarge /dev/shm")]
)
def test_a_loading_process_that_was_killed_is_explained(fault, hint):
    with pytest.raises(LoaderError, match=hint):
        list(batches(Images(fault=fault), 2))


def test_few_open_files_are_enough():
    """Each tensor that is on its way is an open file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        assert len(list(batches(Images(tensors=100), 2))) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


LITTLE = """
import sys
sys.path.insert(0, "tests/data")
from test_loader import Images, batches
try:
    list(batches(Images(tensors=20), 2))
except Exception as error:
    print(type(error).__name__, error)
"""


def test_too_little_shared_memory_ends_the_wait_with_a_hint():
    """As in a container, with 64 MB or less."""
    mount = "mount -t tmpfs -o size=1m tmpfs /dev/shm"
    if subprocess.run(["unshare", "-m", "bash", "-c", mount], capture_output=True).returncode:
        pytest.skip("only root may mount a small /dev/shm")
    call = ["unshare", "-m", "bash", "-c", f'{mount} && exec "$@"', "-", sys.executable, "-c", LITTLE]
    found = subprocess.run(call, capture_output=True, text=True, timeout=60, cwd=REPOSITORY)
    assert "LoaderError the processes" in found.stdout, found
    assert "--shm-size" in found.stdout
    assert "Exception ignored" not in found.stderr
