"""Batches of a dataset, loaded by other processes or by this one, with a time limit on each wait."""

import multiprocessing
import os
import pickle
import resource
import signal
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from tood.runtime.run_state import HEARTBEAT_TIMEOUT
from tood.runtime.waiting import wait_for

# Seconds until a batch must be there. A slow file system may take long for one; a training that says nothing
# for longer counts as dead anyway.
LONGEST_WAIT = HEARTBEAT_TIMEOUT
MOST_FILES = 65_536  # that a process may have open at a time; each tensor of a loading process is one
_END = object()  # of the batches
# By what torch and the system say of a lack: what lacks, and what to do
_LACKS = {
    ("shared memory", "Bus error", "No space left", "/torch_"): (
        "the processes that load images have too little shared memory; enlarge /dev/shm (docker run "
        "--shm-size=8g)"
    ),
    ("Too many open files", "ancdata"): (
        "the processes that load images may open too few files; raise `ulimit -n`"
    ),
    ("killed by signal", "exited unexpectedly", "Cannot allocate memory"): (
        "a process that loads images was killed or could not start, most likely as memory ran out; raise "
        "mem_mb in the scale's `resources`"
    ),
}


class LoaderError(RuntimeError):
    """Images cannot be loaded as the machine lacks something; the message says what, with a hint."""


def batches_of(loader: DataLoader, stop: Callable[[], bool] = lambda: False) -> Generator[Any]:
    """The batches of a loader, whose processes end with the generator, whatever they are doing.

    Raises:
        LoaderError: a batch is not there within `LONGEST_WAIT`, or a loading process was killed or lacks
            shared memory or open files.
    """
    others = set(multiprocessing.active_children())
    with _explained(loader.num_workers):
        iterator = iter(loader)
    loading = [process for process in multiprocessing.active_children() if process not in others]

    def receive() -> Any:
        batch = next(iterator, _END)
        return pickle.loads(batch) if isinstance(batch, bytes) else batch

    try:
        while True:
            with _explained(loader.num_workers):
                batch = wait_for(receive, LONGEST_WAIT, stop)
            if batch is _END:
                return
            yield batch
    finally:
        if loading:
            _end(loading, iterator)


def _end(loading: Sequence[BaseProcess], iterator: Any) -> None:
    """End the processes of a loader at once.

    torch waits for those that sleep, and then asks them by a signal that they ignore.
    """
    try:
        handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's would take their end for a fault
    except ValueError:  # not the main thread, which alone takes signals
        handler = None
    for process in loading:
        process.kill()
    iterator._shutdown_workers()
    if handler is not None:
        signal.signal(signal.SIGCHLD, handler)


@contextmanager
def _explained(workers: int) -> Generator[None]:
    """Say in words what the machine lacks, where a batch does not come for that."""
    fewer = "load with fewer processes (`workers` in the scale's `resources` and `evaluation`, 0 for none)"
    try:
        yield
    except TimeoutError as error:
        raise LoaderError(f"no batch of images: {error}; see whether the disk answers, or {fewer}") from error
    except (RuntimeError, OSError) as error:
        text = f"{error.__cause__ or ''}\n{error}"  # torch's first sign of a killed process is the cause
        for signs, problem in _LACKS.items():
            if workers and any(sign in text for sign in signs):
                last = text.strip().splitlines()[-1].strip()
                raise LoaderError(f"{problem}, or {fewer} ({last})") from error
        raise


def make_loader(
    dataset: Dataset,
    workers: int,
    collate: Callable[[list[dict]], Any],
    leave_signals: bool = False,
    **options: Any,
) -> DataLoader:
    """A loader whose batches `batches_of` gives.

    Args:
        dataset: of samples.
        workers: number of processes that load, at most one for each core; 0 loads in this one.
        collate: from the samples of a batch to the batch.
        leave_signals: the processes ignore signals to the whole job, as the training process needs them.
        options: of `DataLoader`, which say what is in a batch.
    """
    # More processes than cores only wait for each other, and a scale may ask a laptop for too many.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if workers:
        _allow_open_files()
    return DataLoader(
        dataset,
        num_workers=min(workers, cores),
        collate_fn=partial(_pack, collate),
        generator=torch.Generator(),  # leaves the global one alone, whose state is in checkpoints
        worker_init_fn=_leave_signals if leave_signals else _one_thread,
        **options,
    )


def _one_thread(worker: int) -> None:
    """Resize in the loading process itself: OpenCV would start a thread per core in each of them."""
    cv2.setNumThreads(0)  # torch does the same for its own threads


def _leave_signals(worker: int) -> None:
    """`_one_thread`, and ignore signals to the whole job."""
    _one_thread(worker)
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def _allow_open_files() -> None:
    """Raise the soft limit of open files, which is 1,024 on many systems, towards the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _pack(collate: Callable[[list[dict]], Any], samples: list[dict]) -> Any:
    """A batch; in a loading process as it is sent to the one that waits.

    The process would else pack it in a thread of its queue, where a lack of shared memory loses the batch.
    """
    batch = collate(samples)
    return batch if get_worker_info() is None else bytes(ForkingPickler.dumps(batch))
