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

# Seconds until a batch must arrive. A slow file system may take long for one; a training without a heartbeat
# for longer counts as dead anyway.
LONGEST_WAIT = HEARTBEAT_TIMEOUT
MOST_FILES = 65_536  # files that a process may have open; each tensor of a loading process is one
_END = object()  # of the batches
# By the error of torch or the system: what the machine lacks, and what to do
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
    """Images cannot be loaded because the machine lacks something; the message says what, with a hint."""


def batches_of(loader: DataLoader, stop: Callable[[], bool] = lambda: False) -> Generator[Any]:
    """The batches of a loader; its processes end with the generator, even in the middle of their work.

    Raises:
        LoaderError: a batch did not arrive within `LONGEST_WAIT`, or a loading process was killed or lacks
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

    torch waits for sleeping processes, and then sends a signal that these processes ignore.
    """
    try:
        handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's would report their end
    except ValueError:  # not the main thread, the only one that receives signals
        handler = None
    for process in loading:
        process.kill()
    iterator._shutdown_workers()
    if handler is not None:
        signal.signal(signal.SIGCHLD, handler)


@contextmanager
def _explained(workers: int) -> Generator[None]:
    """Say what the machine lacks, if a batch does not arrive for this reason."""
    fewer = "load with fewer processes (`workers` in the scale's `resources` and `evaluation`, 0 for none)"
    try:
        yield
    except TimeoutError as error:
        raise LoaderError(f"no batch of images: {error}; see whether the disk answers, or {fewer}") from error
    except (RuntimeError, OSError) as error:
        text = f"{error.__cause__ or ''}\n{error}"  # torch's first error about a killed process is the cause
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
    """A loader for `batches_of`.

    Args:
        dataset: of samples.
        workers: number of processes that load, at most one for each core; 0 loads in this one.
        collate: from the samples of a batch to the batch.
        leave_signals: the processes ignore signals to the whole job, which are for the training process.
        options: of `DataLoader`; they decide what is in a batch.
    """
    # More processes than cores only wait for each other, and a scale may name too many for a laptop.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if workers:
        _allow_open_files()
    return DataLoader(
        dataset,
        num_workers=min(workers, cores),
        collate_fn=partial(_pack, collate),
        generator=torch.Generator(),  # does not use the global generator, whose state is in checkpoints
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
    """A batch; a loading process packs it here for the process that waits.

    Otherwise a thread of its queue would pack it, and there a lack of shared memory would lose the batch.
    """
    batch = collate(samples)
    return batch if get_worker_info() is None else bytes(ForkingPickler.dumps(batch))
