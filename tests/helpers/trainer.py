"""Calls of the training script in processes that may die, forked from one that has imported everything.

`call` runs in such a process. A fault is done to the process by itself, at an exact iteration.
"""

import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from helpers.forkserver import start_forkserver
from tood.data.loading import SeededDataset
from tood.data.synthetic import DrawingSpec, generate
from tood.data.validation import check_dataset
from tood.engine import trainer as loop
from tood.ledger.study_jobs import training_job
from tood.study.jobs import Execution
from tood.study.plan import Plan
from tood.study.scales import load_scale
from tood.workflow.steps import main

IMAGES, BATCH, ITERATIONS = 20, 4, 12  # five iterations an epoch, the last one not whole


def call(arguments: list[str], log: Path, fault: str | None, at: int, seconds: float) -> None:
    """The script with these arguments, and a fault before iteration `at`, from 0 in each process.

    Args:
        arguments: of the script.
        log: takes its output.
        fault: name of a function below.
        at: iteration.
        seconds: that each iteration takes longer.
    """
    os.setsid()
    multiprocessing.set_start_method("fork", force=True)  # of loaders: as in a process started plainly
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    if fault == "signal_to_all":
        tee = subprocess.Popen(["tee", "-a", log], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        for descriptor in (1, 2):
            os.dup2(tee.stdin.fileno(), descriptor)
        tee.stdin.close()
        globals()["_tee"] = tee
    gradient, count = loop.batch_gradient, 0

    def faulty(*given):
        nonlocal count
        time.sleep(seconds)
        losses = gradient(*given)
        if fault and count == at:
            globals()[fault](losses)
        count += 1
        return losses

    if fault == "loading_hangs":  # in the second epoch: a file system that does not answer
        load = SeededDataset.__getitem__
        SeededDataset.__getitem__ = lambda self, key: time.sleep(1e6) if key[0] else load(self, key)
        fault = None
    loop.batch_gradient = faulty
    sys.exit(main(["train", *arguments]))


def kill(losses) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_in_next_save(losses) -> None:
    """The content is on the disk and has no name yet."""

    replace = Path.replace

    def die(temporary, path):
        if path.suffix == ".pth":
            os.kill(os.getpid(), signal.SIGKILL)
        return replace(temporary, path)

    Path.replace = die


def terminate(losses) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def warn_of_time(losses) -> None:
    os.kill(os.getpid(), signal.SIGUSR1)


def signal_to_all(losses) -> None:
    """To the loaders of images and the reader of the output too, as on a cluster."""
    os.killpg(0, signal.SIGTERM)
    _tee.wait()  # noqa: F821
    print("to nobody", file=sys.stderr)


def fill_disk(losses) -> None:
    """Room for a state, not for a checkpoint."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))


def spoil(losses) -> None:
    losses["loss"] = losses["loss"] * float("nan")


def exhaust_gpu(losses) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def exhaust_memory(losses) -> None:
    torch.empty(2**60)


def fail(losses) -> None:
    raise AssertionError("nothing was to be trained")


@dataclass
class Trainer:
    """One run's folder, and the calls that train it."""

    data: Path
    folder: Path
    iterations: int = ITERATIONS
    run_options: dict = field(default_factory=dict)

    def arguments(self, seed: int = 0, code: str = "", **execution: object) -> list[str]:
        """Of the script; `execution` are fields of `tood.study.jobs.Execution`."""
        study = {"name": "test", "iterations": self.iterations, "batch_size": BATCH}
        job = training_job(Plan(study), "tood_af", seed)
        job = job.model_copy(update={"manifest": self.data / "manifest.json", "code": code})
        job.settings["run"]["options"] |= self.run_options
        how = Execution(**{"device": "cpu", "checkpoint_iterations": 3} | execution)
        arguments = ["--job", job.argument(), "--execution", how.argument()]
        arguments += [
            "--folder",
            self.folder,
            "--record",
            self.folder / "record.json",
            "--output",
            self.model,
        ]
        return list(map(str, arguments))

    def start(
        self, fault: str | None = None, at: int = 0, seconds: float = 0.0, **options: object
    ) -> BaseProcess:
        """A call of the script, running; `options` are those of `arguments`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        arguments = self.arguments(**options)
        context = multiprocessing.get_context("forkserver")
        process = context.Process(target=call, args=(arguments, self.folder / "log", fault, at, seconds))
        process.start()
        return process

    def run(self, **options: object) -> int:
        """Exit status of a call, with the options of `start`; -N if signal N ended it."""
        process = self.start(**options)
        process.join(120)
        assert process.exitcode is not None, self.log
        return process.exitcode

    @property
    def model(self) -> Path:
        return self.folder / "model.pth"

    @property
    def state(self) -> dict:
        return json.loads((self.folder / "state.json").read_text())

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    @property
    def checkpoints(self) -> list[Path]:
        return sorted((self.folder / "checkpoints").iterdir())

    @property
    def result(self) -> tuple[dict[str, bytes], bytes]:
        """Every bit of the weights, and the loss log."""
        weights = torch.load(self.model, weights_only=True)["state_dict"]
        bits = {name: tensor.numpy().tobytes() for name, tensor in weights.items()}
        return bits, (self.folder / "losses.jsonl").read_bytes()

    def wait_for(self, name: str, process: BaseProcess) -> None:
        """Until the file is there, while the process lives."""
        deadline = time.monotonic() + 60
        while not list(self.folder.glob(name)):
            assert process.is_alive(), self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.05)


def prepare(data: Path) -> Path:
    """Draw the dataset, and start what later processes are forked from."""
    generate(data, DrawingSpec(seed=0, train_images=IMAGES, val_images=2, image_size=(64, 64)))
    scale = load_scale("smoke")
    manifest = check_dataset(data, scale.train, scale.val)
    (data / "manifest.json").write_text(json.dumps({"root": str(data), **manifest}))
    start_forkserver()
    return data
