"""A training as a job: it continues where an earlier call stopped, and reports its state.

Its state is in the run's folder: `state.json`, `losses.jsonl`, `provenance.json`, `checkpoints/`. If another
process trains the run, this one waits for it and uses its result. A run that is finished or has diverged is
not trained again as long as its folder exists and nothing that decides the result has changed.
"""

import functools
import hashlib
import math
import shutil
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from tood.data.loading import build_dataset
from tood.data.manifest import read_manifest
from tood.engine.checkpoint import Checkpoints
from tood.engine.config import initial_model, resolve
from tood.engine.reports import Reports
from tood.engine.trainer import train
from tood.engine.weights import weights_of
from tood.ledger.provenance import data_digest, describe_training, digest
from tood.runtime.device import allow_tf32, choose_device, describe
from tood.runtime.distributed import any_process, join, leave
from tood.runtime.failures import (
    STATE_OF,
    Diverged,
    ExitCode,
    InputError,
    RankFailed,
    StopRequest,
    exit_code,
    reason,
    survive_broken_pipes,
)
from tood.runtime.files import atomic_path, write_json
from tood.runtime.locks import claim
from tood.runtime.quiet import quiet
from tood.runtime.ranks import RankWatch, end_at_once, is_main, launched
from tood.runtime.run_state import HEARTBEAT_TIMEOUT, RunState, read_state
from tood.study.jobs import Execution, TrainingJob
from tood.study.paths import RunPaths


def run_training(
    job: TrainingJob,
    execution: Execution,
    folder: Path,
    output: Path,
    at_end: Callable[[ExitCode], None] = lambda ended: None,
) -> ExitCode:
    """Train a run with one seed and write its weights; a failure is one line on stderr.

    Normally this trains in one process. `tood.runtime.launch` starts several processes, which share each
    batch and all call this. If one fails, all fail.

    Args:
        job: what is trained.
        execution: how.
        folder: of the run, for all files but the weights.
        output: the weights.
        at_end: rank 0 calls it with how the training ended, after everything else is written.

    Returns:
        how it ended, for the exit status of the program
    """
    survive_broken_pipes()
    stop = StopRequest()
    stop.install()
    call = _Call(job, execution, RunPaths(folder), output, stop, at_end)
    ended = ExitCode.DONE
    try:
        with RankWatch(call.reason, call.give_up) as watch:
            call.lead(watch) if is_main() else call.follow(watch)
        leave()
    except (Exception, KeyboardInterrupt) as error:
        if not isinstance(error, RuntimeError | OSError | InputError | KeyboardInterrupt):
            traceback.print_exc()
        _say(f"{call.label}: {call.reason(error)}")
        ended = exit_code(error)
    if is_main():
        at_end(ended)
    if ended != ExitCode.DONE and launched() > 1:
        end_at_once(ended)
    return ended


@dataclass
class _Call:
    """One call of `run_training`, in one of its processes."""

    job: TrainingJob
    execution: Execution
    paths: RunPaths
    output: Path
    stop: StopRequest
    at_end: Callable[[ExitCode], None]
    state: RunState | None = None  # in rank 0, once it trains

    @property
    def label(self) -> str:
        """Of messages."""
        return f"train {self.job.run} seed {self.job.seed}"

    def reason(self, error: BaseException) -> str:
        """The entry in the run's state for an exception that ends the training."""
        return reason(error, self.paths.folder, self.execution.micro_batch)

    def give_up(self, failed: RankFailed) -> None:
        """Another process has failed, and this one waits for it in vain."""
        _say(f"{self.label}: {failed}")
        if is_main():
            if self.state:
                self.state.end(STATE_OF[exit_code(failed)], reason=self.reason(failed))
            self.at_end(exit_code(failed))

    def lead(self, watch: RankWatch) -> None:
        """Rank 0: writes the run's state and results, and trains."""
        with claim(self.paths.folder, wait=self._patience(), stop=self.stop, say=_say):
            checkpoints = self._checkpoints()
            before = read_state(self.paths.state)
            same = before.get("fingerprint") == checkpoints.fingerprint
            if same and before["state"] == STATE_OF[ExitCode.DIVERGED]:
                raise Diverged((before.get("reason") or "the loss is not finite").partition(";")[0])
            if final := checkpoints.finished():
                _say(f"{self.label}: already trained; delete {self.paths.folder} to train it again")
                if launched() > 1:
                    self._meet(train=False)
                if not (same and before["state"] == "done"):
                    summary = torch.load(final, map_location="cpu", weights_only=True)["meta"]["training"]
                    self._new_state(checkpoints).end("done", **summary)
                _deliver(final, self.output)
                return
            self.state = state = self._new_state(checkpoints)
            try:
                with watch.attributed():
                    device, _ = self._meet(train=True)
                    state.beat(device=describe(device, launched()))
                    content = self._train(device, checkpoints, state.beat)
                _deliver(checkpoints.finish(content), self.output)
            except BaseException as error:
                try:
                    state.end(STATE_OF[exit_code(error)], reason=self.reason(error))
                except OSError as unwritable:
                    _say(f"{self.paths.state}: cannot be written either ({unwritable.strerror})")
                raise
            state.end("done", **content["meta"]["training"])

    def follow(self, watch: RankWatch) -> None:
        """Any other process: trains together with rank 0, and writes nothing."""
        with watch.attributed():
            device, wanted = self._meet(train=False)
            if wanted:
                self._train(device, self._checkpoints(), beat=lambda **news: None)

    def _patience(self) -> float:
        """Seconds to wait for another holder of the run."""
        if not self.execution.wait:
            return 0
        # Several processes cannot wait for long, because the others try to connect to this one meanwhile.
        return math.inf if launched() == 1 else HEARTBEAT_TIMEOUT + 60

    def _meet(self, train: bool) -> tuple[torch.device, bool]:
        """This process's device, and whether a process wants to train."""
        device = choose_device(self.execution.device)
        join(device)
        return device, any_process(train, device)

    def _train(self, device: torch.device, checkpoints: Checkpoints, beat: Callable[..., None]) -> dict:
        """Train, and return the content of the file of weights."""
        quiet()
        torch.set_num_threads(self.execution.threads)
        settings, seed, manifest = self.job.settings, self.job.seed, read_manifest(self.job.manifest)
        config = resolve(settings, manifest["categories"], self.job.weights)
        allow_tf32(config.train.precision == "tf32")
        origin = functools.partial(
            describe_training,
            settings=settings,
            seed=seed,
            config=config.to_dict(),
            manifest=manifest,
            code=self.job.code,
            device=describe(device, launched()),
            gpus=launched() if device.type == "cuda" else 0,
        )
        if is_main():
            write_json(self.paths.provenance, origin())
        model = initial_model(config, self.job.weights, seed)
        replicas = config.train.batch_size // config.train.replica
        if is_main() and launched() > replicas:
            _say(
                f"{self.label}: a batch has {replicas} replicas, so {launched() - replicas} of {launched()} "
                f"processes only repeat work; gpus={replicas} is as fast"
            )
        split = settings["splits"]["train"]
        dataset = build_dataset(
            Path(manifest["root"]),
            split["annotations"],
            split["images"],
            config.classes,
            config.input.size,
            config.input.flip,
            config.input.train_short_sides,
        )
        event_files = self.paths.event_files if self.execution.logger else None
        summary = train(
            model,
            dataset,
            config,
            seed=seed,
            device=device,
            computing=self.execution,
            reports=Reports(self.label, self.paths.losses, event_files, beat),
            iterations=settings["iterations"],
            checkpoints=checkpoints,
            stop=self.stop,
        )
        if is_main():
            attempt = read_state(self.paths.state).get("attempt")
            write_json(self.paths.provenance, origin(summary={**summary, "attempt": attempt}))
        meta = {"settings": settings, "seed": seed, "classes": config.classes, "training": summary}
        return weights_of(model, meta)

    def _checkpoints(self) -> Checkpoints:
        """This training's checkpoints: of the same configuration, seed, data, initial weights and code."""
        job = self.job
        weights = job.weights and hashlib.sha256(job.weights.read_bytes()).hexdigest()
        parts = {"settings": job.settings, "seed": job.seed, "weights": weights, "code": job.code}
        return Checkpoints(
            self.paths.checkpoints,
            digest({**parts, "data": data_digest(read_manifest(job.manifest))}),
            minutes=self.execution.checkpoint_minutes,
            iterations=self.execution.checkpoint_iterations,
            warn=_say if is_main() else lambda message: None,
        )

    def _new_state(self, checkpoints: Checkpoints) -> RunState:
        known = {"run": self.job.run, "seed": self.job.seed, "device": self.execution.device}
        return RunState(self.paths.state, checkpoints.fingerprint, **known)


def _deliver(final: Path, output: Path) -> None:
    """Copy the weights to where the workflow wants them; it deletes its own outputs before a job starts."""
    with atomic_path(output) as temporary:
        shutil.copyfile(final, temporary)


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
