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

from tood.runtime.files import read_json
from tood.study.scales import load_scale

REPOSITORY = Path(__file__).parents[2]
PARTS = ("Snakefile", "workflow", "profiles", "slurm", "experiments", "environment.yml", "pyproject.toml")
# Neither has a row in the table whose analysis takes jobs of its own.
RUNS = _, PREEMPTED = ("tood_m9", "tood_m17")
CALL = (
    *("snakemake", "--cores", "all", "--profile", "slurm", "--config", f"runs={','.join(RUNS)}"),
    # The scale asks for no GPU; Slurm is asked sooner than real clusters would like.
    *("--set-resources", "train:gpu=1", "evaluate:gpu=1", "--slurm-init-seconds-before-status-checks", "2"),
)
SKIPPED = 77
PATIENCE_SECONDS = 240
REQUEUED, RUNNING = ("COMPLETING", "PENDING"), ("COMPLETING", "RUNNING")  # states of jobs
SHORT_LIMIT_MINUTES = 2  # when the trainings ask to be warned

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
        shutil.rmtree(folder)
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
        killed, preempted = trainings = [Training(study, run) for run in RUNS]
        for training in as_they_train(trainings, snakemake):
            training.process.suspend()  # nothing is over before it was disturbed
            check_request(training, attempt=1)
        killed_job, preempted_job = killed.job, preempted.job

        killed.process.kill()
        wait_for(lambda: state_of(killed_job) == "FAILED", f"job {killed_job} to fail", snakemake)
        say(f"{killed.run}: trainer killed, job {killed_job} failed")
        output("sbatch", "--partition=urgent", "--gpus=2", "--output=/dev/null", "--wrap=sleep 5")
        wait_for(lambda: state_of(preempted_job) in REQUEUED, "a preemption", snakemake)
        say(f"{preempted.run}: preempted by a job of `urgent`, job {preempted_job} is queued again")

        for training in as_they_train(trainings, snakemake):
            if training is killed:
                expect(killed.job != killed_job, f"{killed.run} was not submitted again")
                check_request(killed, attempt=2)
                continue
            expect(preempted.job == preempted_job, f"{preempted.run}: not queued again but submitted again")
            preempted.process.suspend()  # Slurm's signal wakes it
            output("scontrol", "update", f"JobId={preempted_job}", f"TimeLimit={SHORT_LIMIT_MINUTES}")
            say(f"{preempted.run}: time limit of job {preempted_job} cut to {SHORT_LIMIT_MINUTES} minutes")
        wait_for(preempted.has_ended, "Slurm's warning to end the trainer", snakemake)
        wait_for(lambda: state_of(preempted_job) not in RUNNING, f"the end of job {preempted_job}", snakemake)
        state = state_of(preempted_job)  # TIMEOUT, had the limit cut it off
        expect(state == "FAILED", f"job {preempted_job} is {state}: the warning did not reach the trainer")
        say(f"{preempted.run}: warned, the trainer of job {preempted_job} has ended before the limit")

        wait_for(lambda: snakemake.poll() is not None, "the end of the workflow", snakemake, dead=True)
    expect(snakemake.returncode == 0, f"the workflow failed, see {study}/snakemake.log")
    check_results(study)


@contextmanager
def workflow(study: Path) -> Iterator[subprocess.Popen]:
    """Snakemake at work in a new folder; where it does not end by itself, it is killed with all its jobs."""
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
            process.kill()
            process.wait()
            output("scancel", "--full", "--signal=KILL", "--user=root")
            time.sleep(5)  # for the daemons to do it before they are stopped


class Training:
    """One training of the study as Slurm and the system see it; `process` is its trainer."""

    def __init__(self, study: Path, run: str) -> None:
        self.run, self.folder = run, study / f"work/smoke/runs/{run}/seed0"
        self.process: psutil.Process | None = None
        self.job = self.gpu = ""
        self._records_at_start: dict[int, int | None] = {}  # when they were written last, by trainer

    def trains_anew(self) -> bool:
        """Whether a trainer other than the last has written a record; `process`, `job`, `gpu` are its."""
        try:
            state = read_json(self.folder / "state.json")
            process = psutil.Process(state["pid"])
        except (OSError, psutil.NoSuchProcess):
            return False
        if state["state"] != "running" or process == self.process:
            return False
        records = self.folder / "losses.jsonl"
        written = records.stat().st_mtime_ns if records.exists() else None
        if written in (None, self._records_at_start.setdefault(process.pid, written)):
            return False
        environment = process.environ()
        self.process, self.job, self.gpu = (
            process,
            environment["SLURM_JOB_ID"],
            environment["CUDA_VISIBLE_DEVICES"],
        )
        say(f"{self.run}: trains in job {self.job} on GPU {self.gpu}")
        return True

    def has_ended(self) -> bool:
        return not self.process.is_running() or self.process.status() == psutil.STATUS_ZOMBIE


def as_they_train(trainings: list[Training], snakemake: subprocess.Popen) -> Iterator[Training]:
    """Each of the trainings, as soon as it trains anew."""
    left = list(trainings)

    def next_one() -> Training | None:
        return next((training for training in left if training.trains_anew()), None)

    while left:
        names = " and ".join(training.run for training in left)
        training = wait_for(next_one, f"{names} to train", snakemake)
        left.remove(training)
        yield training


def state_of(job: str) -> str:
    return output("squeue", "--states=all", "--noheader", "--format=%T", f"--job={job}")


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


def check_results(study: Path) -> None:
    """Both are done in the tables; which jobs were submitted and how the trainings' ended."""
    table = pd.read_csv(study / "results/smoke/tables/table_m.csv").set_index("run")
    for run in RUNS:
        expect(table.loc[run, "status"] == "done", f"{run} is {table.loc[run, 'status']} in the tables")
        state = read_json(study / f"work/smoke/runs/{run}/seed0/state.json")
        attempts, resumed = state["attempt"], state["resumed_from"]
        say(f"{run}: done, AP {table.loc[run, 'AP']:.2f}, in attempt {attempts}, resumed from {resumed}")
        if run == PREEMPTED:  # and warned in its second attempt, by which it saved what it had
            expect(attempts == 3 and resumed, f"{run}: {attempts} attempts, resumed from {resumed}")
        else:
            expect(attempts == 2, f"{run}: {attempts} attempts")
    jobs = [line.split("|") for line in output("squeue", "--states=all", "-h", "-o", "%k|%T").splitlines()]
    # From Snakemake's log: on a slow machine Slurm has forgotten the first job by now.
    log = (study / "snakemake.log").read_text()
    rules = set(re.findall(r"^(check data|train|evaluate)\b.* submitted: Slurm job \d+$", log, re.MULTILINE))
    expect(rules == {"check data", "train", "evaluate"}, f"jobs of {rules} were submitted")
    trainings = sorted(state for comment, state in jobs if "rule_train_" in comment)
    expect(trainings == ["COMPLETED", "COMPLETED", "FAILED", "FAILED"], f"the trainings' jobs: {trainings}")
    say(f"jobs of {', '.join(sorted(rules))}; of the trainings': {', '.join(trainings)}")


def wait_for(
    look: Callable[[], _Found], what: str, snakemake: subprocess.Popen, dead: bool = False
) -> _Found:
    """What `look` finds, as soon as it is not false; `dead`: Snakemake may have ended meanwhile."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (found := look()):
        expect(dead or snakemake.poll() is None, f"Snakemake ended while this waited for {what}")
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
