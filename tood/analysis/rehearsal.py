"""Tries one run at its full size: the memory that it needs, its speed, and whether its evaluation works.

It trains and evaluates as a study does, on a few images. Nothing of it is a result.
"""

import contextlib
import gc
import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch
from mmdet.datasets import CocoDataset
from mmdet.models.detectors import SingleStageDetector
from mmengine.config import Config

from tood.analysis.table6.measurement import analyse
from tood.data.loading import batches_from, build_dataset
from tood.data.manifest import read_manifest
from tood.data.sample import LARGEST, TYPICAL
from tood.data.validation import Split
from tood.engine.config import initial_model, resolve
from tood.engine.replicas import require_separable
from tood.engine.reports import Reports
from tood.engine.schedule import Schedule
from tood.engine.trainer import train
from tood.engine.weights import weights_of
from tood.evaluation.evaluate import evaluate
from tood.ledger.provenance import cpu_model
from tood.ledger.rehearsal import Attempt, Rehearsed, fastest
from tood.runtime.device import allow_tf32, choose_device, describe
from tood.runtime.failures import ExitCode, exit_code, reason
from tood.runtime.files import atomic_path, write_json
from tood.runtime.quiet import quiet
from tood.runtime.text import single_line
from tood.study.jobs import Computing, Execution, RehearsalJob
from tood.study.paths import RunPaths

PROBED = 4  # iterations for each number of images that have activations at a time, on a GPU
TIMED = {"cuda": 20, "cpu": 1}  # iterations on typical images
UNTIMED = 2  # of those, the first ones on a GPU, in which it chooses kernels
STILL = 1e-12  # learning rate with random weights, from which a training may diverge
_LOADED = 2  # batches whose loading is timed


class Trial(NamedTuple):
    """A training of a few iterations."""

    iterations: int
    images: int  # that were timed
    seconds: float
    peak_memory_mb: float


def rehearse(job: RehearsalJob, execution: Execution, output: Path, digest: str = "") -> Rehearsed:
    """Try a run; the result has any error that ends it.

    Args:
        job: the run to try, on a sample (`tood.data.sample`).
        execution: how; a CPU tries only its `micro_batch`.
        output: written after each step, so that a kill does not lose the earlier steps.
        digest: of job and execution, for the result.
    """
    known = Rehearsed(run=job.training.run, digest=digest)
    try:
        for _ in _steps(job, execution, RunPaths(output.parent), known):
            write_json(output, known.model_dump())
    except Exception as error:
        known.failed = reason(error, output.parent, known.micro_batch)
    write_json(output, known.model_dump())
    return known


def tries_several(device: torch.device) -> bool:
    """Whether several numbers of images at a time are tried: on a CPU each takes minutes."""
    return device.type == "cuda"


def _steps(job: RehearsalJob, execution: Execution, files: RunPaths, known: Rehearsed) -> Iterator[None]:
    """Fill in the results, step by step."""
    quiet()
    torch.set_num_threads(execution.threads)
    device, training = choose_device(execution.device), job.training
    manifest = read_manifest(training.manifest)
    config = resolve(training.settings, manifest["categories"], training.weights)
    known.device, known.on_gpu = f"CPU ({cpu_model()})", device.type == "cuda"
    if known.on_gpu:
        known.device = describe(device, 1)
        known.memory_mb = torch.cuda.get_device_properties(device).total_memory / 2**20
    known.threads, known.workers = execution.threads, execution.workers
    known.weights = "imagenet" if training.weights else "random"
    known.precision, known.batch_size = config.train.precision, config.train.batch_size
    known.trained_images = manifest["trained_images"]
    allow_tf32(config.train.precision == "tf32")
    if not training.weights:
        config.train.lr = STILL
    model = initial_model(config, training.weights, training.seed)
    trials = _Trials(model, config, job, execution, device, files, Path(manifest["root"]))
    yield

    if tries_several(device):
        for micro_batch in trials.candidates():
            known.attempts.append(trials.attempt(micro_batch, LARGEST, PROBED)[0])
            yield
            if known.attempts[-1].failed:
                break
        best = fastest(known.attempts)
        if best is None:
            raise _out_of_memory(known.attempts[-1])
        known.micro_batch = best.micro_batch
    else:
        known.micro_batch = min(execution.micro_batch or known.batch_size, known.batch_size)
    iterations = job.iterations or TIMED[device.type]
    attempt, trial = trials.attempt(known.micro_batch, TYPICAL, iterations)
    if not known.attempts:
        known.attempts.append(attempt)
    if trial is None:
        raise _out_of_memory(attempt)
    known.iterations, known.images, known.seconds = trial.iterations, trial.images, trial.seconds
    known.images_per_second = attempt.images_per_second
    known.process_memory_mb = _resident()
    known.loaded_per_second = trials.loaded_per_second()
    yield

    with atomic_path(files.model) as temporary:
        torch.save(weights_of(model, {}), temporary)
    del model, trials
    _free(device)
    start = time.monotonic()
    try:
        (analyse if job.analysed else evaluate)(job.measuring, execution, files)
    finally:
        files.model.unlink()
    known.evaluation_seconds, known.evaluated_images = time.monotonic() - start, job.measuring.images or 0


@dataclass
class _Trials:
    """Trainings of one model, each of a few iterations."""

    model: SingleStageDetector
    config: Config
    job: RehearsalJob
    execution: Execution
    device: torch.device
    files: RunPaths
    root: Path

    def candidates(self) -> list[int]:
        """Numbers of images to try, from the smallest on: the requested one, or powers of two and a batch."""
        whole = self.config.train.batch_size
        if self.job.micro_batch:
            return [min(self.job.micro_batch, whole)]
        powers = [2**power for power in range(whole.bit_length()) if 2**power < whole]
        return [number for number in (*powers, whole) if self._separable(number)]

    def _separable(self, micro_batch: int) -> bool:
        try:
            require_separable(self.model.train(), self.config.train.batch_size, micro_batch)
        except RuntimeError:
            return False
        return True

    def attempt(self, micro_batch: int, split: Split, iterations: int) -> tuple[Attempt, Trial | None]:
        """Train; if memory runs out, the attempt says so."""
        try:
            trial = self._train(micro_batch, split, iterations)
        except Exception as error:
            if exit_code(error) != ExitCode.OUT_OF_MEMORY:
                raise
            failed = single_line(str(error)) or "out of memory"
        else:
            rate = trial.images / trial.seconds
            return Attempt(
                micro_batch=micro_batch, peak_memory_mb=trial.peak_memory_mb, images_per_second=rate
            ), trial
        # After the exception, whose traceback holds the tensors that did not fit
        self.model.zero_grad(set_to_none=True)
        _free(self.device)
        return Attempt(micro_batch=micro_batch, failed=failed), None

    def _train(self, micro_batch: int, split: Split, iterations: int) -> Trial:
        dataset = self._dataset(split)
        gpu = self.device.type == "cuda"
        untimed = UNTIMED if gpu and iterations > UNTIMED else 0
        if gpu:
            torch.cuda.reset_peak_memory_stats(self.device)
        start = time.monotonic()

        def beat(iteration: int = 0, **news: object) -> None:
            nonlocal start
            if iteration == untimed:
                _wait(self.device)
                start = time.monotonic()

        label = f"rehearse {self.job.training.run}, micro_batch={micro_batch}"
        took = train(
            self.model,
            dataset,
            self.config,
            seed=self.job.training.seed,
            device=self.device,
            computing=Computing(workers=self.execution.workers, micro_batch=micro_batch),
            reports=Reports(label, self.files.losses, beat=beat),
            iterations=iterations,
        )
        _wait(self.device)
        seconds = time.monotonic() - start
        images = took["images"] - Schedule(self.config, len(dataset)).images(untimed)
        peak = torch.cuda.max_memory_allocated(self.device) / 2**20 if gpu else _resident()
        return Trial(took["iterations"], images, seconds, peak)

    def _dataset(self, split: Split) -> CocoDataset:
        given = self.config.input
        sides = given.train_short_sides
        if split == LARGEST and sides:  # the drawn size must be the largest too
            sides = {"choices": [max(next(iter(sides.values())))]}
        return build_dataset(self.root, *split, self.config.classes, given.size, given.flip, sides)

    def loaded_per_second(self) -> float:
        """Images that one process loads."""
        cfg, dataset, seed = self.config.train, self._dataset(TYPICAL), self.job.training.seed
        batches = batches_from(0, dataset, cfg.batch_size, cfg.replica, seed, epochs=1, workers=0)
        images, start = 0, time.monotonic()
        with contextlib.closing(batches):
            for _, batch in islice(batches, _LOADED):
                images += sum(len(replica.images) for replica in batch.replicas) if batch else 0
        return images / (time.monotonic() - start)


def _out_of_memory(attempt: Attempt) -> RuntimeError:
    return RuntimeError(f"out of memory with micro_batch={attempt.micro_batch} ({attempt.failed})")


def _resident() -> float:
    """The largest resident memory of this process, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _free(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
