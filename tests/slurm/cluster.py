"""A real Slurm of one node on this machine, for as long as a test lasts.

Debian's packages, without systemd and without accounting. Its two GPUs are device files that compute
nothing: Slurm schedules them and names them in CUDA_VISIBLE_DEVICES like real ones.
"""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

ETC = Path("/etc/slurm")
PACKAGES = ("slurm-wlm", "munge")
DAEMONS = ("munged", "slurmctld", "slurmd")

# Jobs of `urgent` preempt those of `main`, which are queued again: at once, as cred_expire also is the
# time that Slurm lets pass before a requeued job may start. MinJobAge and KillWait are Slurm's defaults.
SLURM_CONF = """\
ClusterName=toy
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=cred_expire=5
CredType=cred/munge
MpiDefault=none
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,sched_interval=1,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
MinJobAge=300
KillWait=30
ReturnToService=2
StateSaveLocation={folder}/ctld
SlurmdSpoolDir={folder}/d
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs=8 RealMemory=64000 Gres=gpu:2 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE DefaultTime=60 PriorityTier=1 State=UP
PartitionName=urgent Nodes={host} MaxTime=INFINITE DefaultTime=60 PriorityTier=9 PreemptMode=OFF State=UP
"""
GRES_CONF = "NodeName={host} Name=gpu File=/dev/null,/dev/zero\n"


class Unavailable(Exception):
    """Why no Slurm can be started here."""


@contextmanager
def one_node_slurm(folder: Path) -> Iterator[None]:
    """Install, configure and start Slurm; stop it and remove its configuration at the end, come what may.

    Args:
        folder: for state and logs of the daemons.

    Raises:
        Unavailable: not root, packages that cannot be installed, a Slurm that is here already, or daemons
            that do not start.
    """
    _install()
    if _running("slurmctld", "slurmd") or (ETC / "slurm.conf").exists():
        raise Unavailable(f"this machine has a Slurm of its own ({ETC}/slurm.conf, or a running daemon)")
    started: list[subprocess.Popen] = []
    try:
        _configure(folder)
        _start(folder, started)
        yield
    finally:
        for name in ("slurm.conf", "gres.conf"):
            (ETC / name).unlink(missing_ok=True)
        for daemon in reversed(started):
            _stop(daemon)


def _install() -> None:
    if os.geteuid() != 0:
        raise Unavailable("installing and starting Slurm needs root")
    if all(map(shutil.which, DAEMONS)):
        return
    if not shutil.which("apt-get"):
        raise Unavailable("no apt-get to install slurm-wlm with")
    for command in (("update", "-qq"), ("install", "-y", "-qq", "--no-install-recommends", *PACKAGES)):
        outcome = subprocess.run(
            ["apt-get", *command],
            env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    if outcome.returncode:
        raise Unavailable(f"apt-get cannot install {' '.join(PACKAGES)}: {outcome.stdout.strip()[-300:]}")


def _configure(folder: Path) -> None:
    for name in ("ctld", "d"):
        (folder / name).mkdir(parents=True)
    host = socket.gethostname().partition(".")[0]
    ETC.mkdir(exist_ok=True)
    (ETC / "slurm.conf").write_text(SLURM_CONF.format(host=host, folder=folder))
    (ETC / "gres.conf").write_text(GRES_CONF.format(host=host))


def _start(folder: Path, started: list[subprocess.Popen]) -> None:
    runtime = Path("/run/munge")
    runtime.mkdir(mode=0o755, exist_ok=True)
    shutil.chown(runtime, "munge", "munge")
    # In the foreground, hence children whose end can be waited for.
    commands: list[tuple[list[str], dict]] = [([daemon, "-D"], {}) for daemon in ("slurmctld", "slurmd")]
    if not _running("munged"):  # its package may have started it
        munge = {"user": "munge", "group": "munge", "extra_groups": []}
        commands.insert(0, (["munged", "--foreground"], munge))
    for command, account in commands:
        with (folder / "daemons.out").open("a") as log:
            daemon = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, **account)
        started.append(daemon)
        time.sleep(0.5)
    deadline = time.monotonic() + 30
    while (state := _output("sinfo", "-h", "-p", "main", "-o", "%t")) != "idle":
        if time.monotonic() > deadline:
            raise Unavailable(f"the node does not come up, it is {state or 'unknown'}; logs in {folder}")
        time.sleep(0.2)


def _stop(daemon: subprocess.Popen) -> None:
    daemon.terminate()
    try:
        daemon.wait(10)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()


def _running(*names: str) -> bool:
    """Whether a process of one of these names is alive."""
    processes = psutil.process_iter(["name", "status"])
    return any(p.info["name"] in names and p.info["status"] != psutil.STATUS_ZOMBIE for p in processes)


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()
