"""Fork jobs from a process that has already imported torch and mmdet, which takes seconds.

A call of the workflow starts one such process, `start_server`, and every job on this machine is a fork of it:

    python -m tood.runtime.preloaded workflow/step.py train --job ...

The script behaves as if Python ran it: arguments, folder, environment, standard streams, signals and exit
status. Where there is no such process, or it cannot fork, Python does run it. A fork cannot use a GPU that
its parent looked at, so the process ends where torch, once it is imported, sees one.
"""

import contextlib
import gc
import importlib
import json
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from tood.runtime.failures import KILLED

ADDRESS = "TOOD_PRELOADED"  # environment variable: the server's socket
_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
_STATUS_OF_SIGKILL = 128 + signal.SIGKILL
_BACKLOG = 64
_PATIENCE = 10.0  # seconds in which a caller has to say what it wants
_SECONDS_BETWEEN_LOOKS = 0.2  # at jobs, and at the process that started the server


def start_server(modules: Sequence[str]) -> None:
    """Start a process that imports modules and forks for each job; jobs find it by the environment.

    It ends with this process, once the jobs that it started have ended. Where forking will not do (there are
    GPUs, or this is no Linux), or anything fails, there is none and jobs run by themselves.

    Args:
        modules: names of what the jobs import, in this order. torch first tells soonest whether there are
            GPUs; jobs wait for that.
    """
    if sys.platform != "linux" or ADDRESS in os.environ:
        return
    for folder in (None, "/tmp"):  # the path of a socket has 107 bytes at most, and TMPDIR may be longer
        with contextlib.suppress(OSError):
            os.environ[ADDRESS] = _start(modules, folder)
            return


def _start(modules: Sequence[str], folder: str | None) -> str:
    """Start the process, and return its address, in a folder of its own; None is that for temporary files.

    Raises:
        OSError: no folder, socket or process can be made; nothing is left of them.
    """
    address = Path(tempfile.mkdtemp(prefix="tood-", dir=folder)) / "jobs"
    program = [sys.executable, "-m", __name__, "--serve"]
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(address))
            listener.listen(_BACKLOG)  # jobs may call before the modules are there
            subprocess.Popen(
                [*program, str(listener.fileno()), str(os.getpid()), *modules],
                pass_fds=(listener.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # where an import fails, jobs try it themselves and say so
                start_new_session=True,  # the terminal's signals reach jobs by those who wait for them
                # Threads would be lost in a fork. Jobs set their own number.
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
    except OSError as error:
        shutil.rmtree(address.parent, ignore_errors=True)
        raise OSError(*error.args) from error  # of a socket's path too, whose error is a plain one
    return str(address)


def run(arguments: Sequence[str]) -> int:
    """Run a script in a fork of the server, or here if there is none.

    Args:
        arguments: its path and its arguments.

    Returns:
        its exit status; 128 and the number of the signal that ended it
    """
    if (status := _run_there(arguments)) is not None:
        return status
    sys.argv[:] = arguments
    sys.path[0] = str(Path(arguments[0]).parent)
    runpy.run_path(arguments[0], run_name="__main__")
    return 0


def _run_there(arguments: Sequence[str]) -> int | None:
    """The exit status; None if the server cannot be reached, and nothing was run."""
    environment = dict(os.environ)
    if (address := environment.pop(ADDRESS, None)) is None:
        return None
    job = {"arguments": list(arguments), "folder": os.getcwd(), "environment": environment}
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(address)
            socket.send_fds(connection, [b"\n"], [0, 1, 2])
            connection.sendall(json.dumps(job).encode() + b"\n")
            answers = connection.makefile()
            started = answers.readline()
        except OSError:
            started = ""
        if not started:
            return None
        pid = int(started)
        for number in _FORWARDED:
            signal.signal(number, lambda received, frame: _send(pid, received))
        try:
            ended = answers.readline()
        except OSError:
            ended = ""
        if not ended:  # a job says how it ended, unless it was killed
            print(f"{arguments[0]}: process {pid} ended without a word: {KILLED}", file=sys.stderr)
        return int(ended or _STATUS_OF_SIGKILL)


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def serve(listener: socket.socket, parent: int, modules: Sequence[str]) -> None:
    """Fork for each job that calls, until the process that started this has ended and no job runs.

    With a GPU nothing is forked: the jobs that wait find the listener closed, and run by themselves.

    Args:
        listener: where jobs call.
        parent: pid of that process.
        modules: names of what is imported before.
    """
    try:
        for module in modules:
            importlib.import_module(module)
            if _sees_gpu():
                return
        gc.freeze()
        listener.settimeout(_SECONDS_BETWEEN_LOOKS)
        while _jobs_run() or os.getppid() == parent:
            try:
                _fork_for(listener)
            except TimeoutError:
                pass  # nobody called
            except (OSError, ValueError):  # who called runs by itself; too many files may be open
                time.sleep(_SECONDS_BETWEEN_LOOKS)
    finally:
        shutil.rmtree(Path(listener.getsockname()).parent, ignore_errors=True)


def _jobs_run() -> bool:
    """Whether a job still runs; those that have ended leave the table of processes."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def _sees_gpu() -> bool:
    """Whether torch, if it is imported, sees a GPU of any make; asked of CUDA itself, not of device files."""
    torch = sys.modules.get("torch")
    return torch is not None and torch.cuda.is_available()


def _fork_for(listener: socket.socket) -> None:
    """Start the job that calls; who called finds by the closed connection that it cannot be started."""
    with listener.accept()[0] as connection:
        streams: Sequence[int] = ()
        try:
            connection.settimeout(_PATIENCE)
            _, streams, _, _ = socket.recv_fds(connection, 1, 3)
            job = json.loads(connection.makefile().readline())
            connection.settimeout(None)
            if len(streams) == 3 and os.fork() == 0:
                listener.close()
                _become(job, streams, connection)
        finally:
            for stream in streams:
                os.close(stream)


def _stop_without(connection: socket.socket) -> None:
    """Ask this process to stop once the one that waits for it is gone, which sends nothing else."""

    def look() -> None:
        with contextlib.suppress(OSError):
            connection.recv(1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=look, daemon=True).start()


def _become(job: dict, streams: Sequence[int], connection: socket.socket) -> NoReturn:
    """Run a job's script in this process, which is a fork, say how it ended, and end."""
    status = 1
    try:
        connection.sendall(f"{os.getpid()}\n".encode())
        _stop_without(connection)
        for stream, number in zip(streams, range(3), strict=True):
            os.dup2(stream, number)
            os.close(stream)
        os.chdir(job["folder"])
        os.environ.clear()
        os.environ.update(job["environment"])
        sys.argv[:] = job["arguments"]
        sys.path[0] = str(Path(sys.argv[0]).parent)
        runpy.run_path(sys.argv[0], run_name="__main__")
        status = 0
    except SystemExit as exit:
        if isinstance(exit.code, str):
            print(exit.code, file=sys.stderr)
        else:
            status = exit.code or 0
    except BaseException:
        traceback.print_exc()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # who waits for this process may be gone at once
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    with contextlib.suppress(OSError, ValueError, TypeError):
        connection.sendall(f"{int(status) & 0xFF}\n".encode())
    os._exit(status)


if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        serve(socket.socket(fileno=int(sys.argv[2])), int(sys.argv[3]), sys.argv[4:])
    else:
        sys.exit(run(sys.argv[1:]))
