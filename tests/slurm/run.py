"""The workflow on a real Slurm: what it asks for, and how trainings survive kill, preemption and time limit.

    python tests/slurm/run.py

needs root and Debian's packages, or the right to install them; elsewhere it says so and exits with 77.
Two trainings of the scale smoke run at once, each with a GPU that Slurm believes in:

- one is preempted by a job of a better partition, and Slurm queues it again;
- the other is killed (SIGKILL), and the workflow submits it again;
- the time limit of the first is cut, Slurm's warning has to reach its trainer, and it is submitted again.

Then everything is to be evaluated and to stand in the tables as done.
"""

import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pandas as pd
import psutil
from cluster import Unavailable, one_node_slurm

from tood.files import read_json
from tood.study import load_scale

REPOSITORY = Path(__file__).parents[2]
PARTS = ("Snakefile", "workflow", "profiles", "slurm", "experiments", "environment.yml", "pyproject.toml")
RUNS = ("tood_m9", "tood_m17")  # neither has a row in the table whose analysis takes jobs of its own
CALL = (
    *("snakemake", "--cores", "all", "--profile", "slurm", "--config", f"runs={','.join(RUNS)}"),
    # The scale asks for no GPU; Slurm is asked sooner than real clusters would like.
    *("--set-resources", "train:gpu=1", "evaluate:gpu=1", "--slurm-init-seconds-before-status-checks", "2"),
)
SKIPPED = 77
PATIENCE_SECONDS = 240
USR1_PENDING = 1 << (signal.SIGUSR1 - 1)  # in the masks of /proc/PID/status

_Found = TypeVar("_Found")
_START = time.monotonic()


class Failed(AssertionError):
    """Something did not come about, or not as it should."""


def main() -> int:
    # Stop what was started, however this ends.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    folder = Path(tempfile.mkdtemp(prefix="tood-slurm-"))
    try:
        with one_node_slurm(folder / "slurm"):
            say("Slurm is up")
            survive(folder / "study")
    except Unavailable as reason:
        print(f"skipped: {reason}")
        return SKIPPED
    except Failed as problem:
        print(f"FAIL: {problem}; everything is left in {folder}")
        return 1
    shutil.rmtree(folder)
    print(f"PASS in {time.monotonic() - _START:.0f} s")
    return 0


def survive(study: Path) -> None:
    """The scenario of the module's docstring, in a new folder `study`."""
    with workflow(study) as snakemake:
        first, second = (Training(study, run) for run in RUNS)
        for training in (first, second):
            training.wait_until_it_trains(snakemake)
            training.process.suspend()  # nothing is over before it was disturbed
            check_request(training, attempt=1)

        say("a job of the partition `urgent` takes one GPU")
        output("sbatch", "--partition=urgent", "--gpus=1", "--output=/dev/null", "--wrap=sleep 5")
        preempted, other = wait_for(lambda: in_order_of_preemption(first, second), "a preemption", snakemake)
        say(f"{preempted.run}: preempted, job {preempted.job} is queued again")

        other.process.kill()
        say(f"{other.run}: trainer killed in job {other.job}")

        job = preempted.job
        preempted.wait_until_it_trains(snakemake)
        expect(preempted.job == job, f"{preempted.run} was submitted again instead of queued again by Slurm")
        preempted.process.suspend()
        output("scontrol", "update", f"JobId={job}", "TimeLimit=2")
        wait_for(preempted.is_told_to_stop, "Slurm's warning at the trainer", snakemake)
        say(f"{preempted.run}: SIGUSR1 reached the trainer in job {job}, whose time is nearly up")
        preempted.process.resume()

        job = other.job
        other.wait_until_it_trains(snakemake)
        expect(other.job != job, f"{other.run} was not submitted again")
        check_request(other, attempt=2)
        wait_for(lambda: snakemake.poll() is not None, "the end of the workflow", snakemake, dead=True)
    expect(snakemake.returncode == 0, f"the workflow failed, see {study}/snakemake.log")
    check_results(study, {preempted.run: 3, other.run: 2})


@contextmanager
def workflow(study: Path) -> Iterator[subprocess.Popen]:
    """Snakemake at work in a new folder; stopped as a user would, where it does not end by itself."""
    study.mkdir()
    for name in PARTS:
        (study / name).symlink_to(REPOSITORY / name)
    with (study / "snakemake.log").open("w") as log:
        program = Path(sys.executable).with_name(CALL[0])
        process = subprocess.Popen([program, *CALL[1:]], cwd=study, stdout=log, stderr=log)
    say(" ".join(CALL))
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
            subprocess.run(["scancel", "--signal=KILL", "--user=root"], check=False)


class Training:
    """One training of the study as Slurm and the system see it; `process` is its trainer."""

    def __init__(self, study: Path, run: str) -> None:
        self.run, self.folder = run, study / f"work/smoke/runs/{run}/seed0"
        self.process: psutil.Process | None = None
        self.job = self.gpu = ""
        self._records_at_start: dict[int, int | None] = {}  # when they were written last, by trainer

    def wait_until_it_trains(self, snakemake: subprocess.Popen) -> None:
        """Until a trainer other than the last has done an iteration; `process`, `job` and `gpu` are its."""
        self.process = wait_for(self._new_trainer, f"{self.run} to train", snakemake)
        environment = self.process.environ()
        self.job, self.gpu = environment["SLURM_JOB_ID"], environment["CUDA_VISIBLE_DEVICES"]
        say(f"{self.run}: trains in job {self.job} on GPU {self.gpu}")

    def _new_trainer(self) -> psutil.Process | None:
        try:
            state = read_json(self.folder / "state.json")
            process = psutil.Process(state["pid"])
        except (OSError, psutil.NoSuchProcess):
            return None
        if state["state"] != "running" or process == self.process:
            return None
        records = self.folder / "losses.jsonl"
        written = records.stat().st_mtime_ns if records.exists() else None
        before = self._records_at_start.setdefault(process.pid, written)
        return process if written not in (None, before) else None

    def state_of_job(self) -> str:
        return output("squeue", "--states=all", "--noheader", "--format=%T", f"--job={self.job}")

    def is_told_to_stop(self) -> bool:
        """Whether SIGUSR1 waits for the suspended trainer."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        masks = re.findall(r"^(?:SigPnd|ShdPnd):\s+(\w+)$", status, re.MULTILINE)
        return any(int(mask, 16) & USR1_PENDING for mask in masks)


def in_order_of_preemption(first: Training, second: Training) -> tuple[Training, Training] | None:
    for one, other in ((first, second), (second, first)):
        if (state := one.state_of_job()) != "RUNNING":
            expect(state in ("COMPLETING", "PENDING"), f"job {one.job} of {one.run} is {state}")
            return one, other
    return None


def check_request(training: Training, attempt: int) -> None:
    """Slurm was asked for what the scale says."""
    asked = load_scale("smoke").resources
    shown = dict(re.findall(r"(\S+?)=(\S*)", output("scontrol", "show", "job", training.job)))
    expected = {
        "Comment": f"rule_train_wildcards_{training.run}_0",
        "TresPerJob": "gres:gpu:1",
        "NumCPUs": str(asked.threads),
        "CPUs/Task": str(asked.threads),
        "MinMemoryNode": f"{asked.mem_mb * attempt}M",
        "TimeLimit": f"00:{asked.runtime}:00",
        "Requeue": "1",
    }
    seen = {key: shown.get(key) for key in expected}
    expect(seen == expected, f"job {training.job}: asked for {seen} instead of {expected}")
    expect(training.gpu in ("0", "1"), f"job {training.job} has the GPU {training.gpu!r}")
    say(f"{training.run}: " + " ".join(f"{key}={value}" for key, value in seen.items()))


def check_results(study: Path, starts: dict[str, int]) -> None:
    table = pd.read_csv(study / "results/smoke/tables/table_m.csv").set_index("run")
    for run, times in starts.items():
        expect(table.loc[run, "status"] == "done", f"{run} is {table.loc[run, 'status']} in the tables")
        say(f"{run}: started {times} times, done, AP {table.loc[run, 'AP']:.2f} in the tables")
    jobs = [line.split("|") for line in output("squeue", "--states=all", "-h", "-o", "%k|%T").splitlines()]
    rules = {re.sub(r"rule_(\w+?)(_wildcards.*)?$", r"\1", comment) for comment, _ in jobs} - {"(null)"}
    expect(rules == {"check_data", "train", "evaluate"}, f"jobs of {rules} were submitted")
    trainings = sorted(state for comment, state in jobs if "rule_train_" in comment)
    expect(trainings == ["COMPLETED", "COMPLETED", "FAILED", "FAILED"], f"the trainings' jobs: {trainings}")


def wait_for(
    look: Callable[[], _Found], what: str, snakemake: subprocess.Popen, dead: bool = False
) -> _Found:
    """What `look` finds, as soon as it is not false; `dead`: Snakemake may have ended meanwhile."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (found := look()):
        expect(dead or snakemake.poll() is None, f"Snakemake ended before {what}")
        expect(time.monotonic() < deadline, f"waited {PATIENCE_SECONDS} s in vain for {what}")
        time.sleep(0.2)
    return found


def expect(fact: bool, otherwise: str) -> None:
    if not fact:
        raise Failed(otherwise)


def output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def say(event: str) -> None:
    print(f"{time.monotonic() - _START:4.0f} s  {event}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
