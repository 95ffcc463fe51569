"""Jobs as forks of one process: they behave as if Python ran their scripts."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tood.runtime.preloaded import ADDRESS

PARENT = """
import os, sys
from tood.runtime import preloaded
preloaded.start_server(sys.argv[1:])
print(os.environ.get(preloaded.ADDRESS, ""), flush=True)
sys.stdin.read()
"""
# Which of its parent's imports a job finds
IMPORTED = "import sys; print('fractions' in sys.modules)"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="no job is a fork here: this is not Linux")


def without(environment) -> dict:
    return {name: value for name, value in environment.items() if name != ADDRESS}


def started(*modules: str, **environment: str) -> tuple[subprocess.Popen, str]:
    """A process that has started a server, which ends with it, and the server's address."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, *modules],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=without(os.environ) | environment,
    )
    assert parent.stdout is not None
    return parent, parent.stdout.readline().strip()


@pytest.fixture(scope="module")
def address():
    parent, address = started("fractions")
    yield address
    parent.communicate()
    wait_until(lambda: not Path(address).exists())


def wait_until(condition) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def call(script: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "tood.runtime.preloaded", str(script), *arguments]


def run(folder: Path, address: str, text: str, *arguments: str, **options) -> subprocess.CompletedProcess:
    script = folder / "script.py"
    script.write_text(text)
    environment = without(os.environ) | {ADDRESS: address, "SAID": "a b"}
    return subprocess.run(
        call(script, *arguments), env=environment, capture_output=True, text=True, timeout=60, **options
    )


def test_a_job_has_what_was_imported(tmp_path, address):
    assert run(tmp_path, address, IMPORTED).stdout == "True\n"


def test_arguments_folder_environment_and_streams_are_those_of_the_call(tmp_path, address):
    (tmp_path / "beside.py").write_text("HERE = 1")
    text = (
        "import beside, os, sys\n"
        "print(sys.argv[1:], os.getcwd(), os.environ['SAID'], sys.stdin.read(), __name__, "
        f"'{ADDRESS}' in os.environ)\n"
        "print('wrong', file=sys.stderr)\n"
    )
    outcome = run(tmp_path, address, text, "--job", "{} x", cwd=tmp_path, input="typed")
    assert outcome.stdout == f"['--job', '{{}} x'] {tmp_path} a b typed __main__ False\n"
    assert (outcome.stderr, outcome.returncode) == ("wrong\n", 0)


@pytest.mark.parametrize(
    ("text", "status", "said"),
    [
        ("import sys; sys.exit(3)", 3, ""),
        ("import sys; sys.exit()", 0, ""),
        ("import sys; sys.exit('why')", 1, "why\n"),
        ("1 / 0", 1, "ZeroDivisionError: division by zero\n"),
        ("import os; os.kill(os.getpid(), 9)", 137, "raise mem_mb in the scale's resources\n"),
    ],
)
def test_the_exit_status_is_that_of_the_script(tmp_path, address, text, status, said):
    outcome = run(tmp_path, address, text)
    assert outcome.returncode == status
    assert outcome.stderr.endswith(said)


WAITING = """
import pathlib, signal, sys, time
def stop(number, frame):
    pathlib.Path("stopped").write_text(str(number))
    sys.exit(7)
for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
    signal.signal(number, stop)
pathlib.Path("ready").touch()
time.sleep(60)
"""


def waiting(folder: Path, address: str) -> subprocess.Popen:
    script = folder / "script.py"
    script.write_text(WAITING)
    process = subprocess.Popen(call(script), cwd=folder, env=without(os.environ) | {ADDRESS: address})
    wait_until((folder / "ready").exists)
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_signals_reach_the_job(tmp_path, address, number):
    process = waiting(tmp_path, address)
    process.send_signal(number)
    assert process.wait(20) == 7
    assert (tmp_path / "stopped").read_text() == str(int(number))


def test_a_job_whose_caller_is_killed_is_told_to_stop(tmp_path, address):
    process = waiting(tmp_path, address)
    process.kill()
    process.wait()
    wait_until((tmp_path / "stopped").exists)
    assert run(tmp_path, address, IMPORTED).stdout == "True\n"  # others go on


def test_the_server_ends_with_who_started_it_once_its_jobs_have_ended(tmp_path):
    parent, address = started("fractions")
    process = waiting(tmp_path, address)
    parent.kill()
    parent.communicate()
    time.sleep(0.5)
    assert process.poll() is None
    assert Path(address).exists()
    process.terminate()
    assert process.wait(20) == 7
    wait_until(lambda: not Path(address).parent.exists())


def test_jobs_run_side_by_side(tmp_path, address):
    folders = [tmp_path / name for name in ("a", "b", "c")]
    for folder in folders:
        folder.mkdir()
    processes = [waiting(folder, address) for folder in folders]
    for process in processes:
        process.terminate()
    assert [process.wait(20) for process in processes] == [7, 7, 7]


def test_without_a_server_python_runs_the_script(tmp_path):
    gone = str(tmp_path / "gone")
    outcome = run(tmp_path, gone, IMPORTED + "\nsys.exit(5)")
    assert (outcome.stdout, outcome.returncode) == ("False\n", 5)


def test_where_an_import_fails_the_job_says_so_itself(tmp_path):
    parent, address = started("no_such_module")
    outcome = run(tmp_path, address, "import no_such_module")
    parent.communicate()
    assert "ModuleNotFoundError: No module named 'no_such_module'" in outcome.stderr
    assert outcome.returncode == 1


SEEN = """
class cuda:
    @staticmethod
    def is_available():
        return {seen}
"""


@pytest.mark.parametrize("seen", [True, False])
def test_jobs_run_by_themselves_where_torch_sees_a_gpu(tmp_path, seen):
    """Whatever device files there are: on WSL2 and for GPUs of AMD they have other names."""
    (tmp_path / "torch.py").write_text(SEEN.format(seen=seen))
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    parent, address = started("torch", "fractions", PYTHONPATH=path)
    assert run(tmp_path, address, IMPORTED).stdout == f"{not seen}\n"
    parent.communicate()


def alone(folder: Path, environment: dict) -> tuple[str, str]:
    """The address of a server that a process starts with this environment, and a job's output after that."""
    program = PARENT.replace("sys.stdin.read()", "")
    parent = subprocess.run(
        [sys.executable, "-c", program, "fractions"],
        env=without(os.environ) | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (parent.returncode, parent.stderr) == (0, "")
    return parent.stdout.strip(), run(folder, parent.stdout.strip() or "none", "print(1)").stdout


def test_a_long_folder_for_temporary_files_is_not_in_the_way(tmp_path):
    """A socket's path has 107 bytes at most; on clusters TMPDIR may be longer."""
    long = tmp_path / ("scratch" * 15)
    long.mkdir()
    address, said = alone(tmp_path, {"TMPDIR": str(long)})
    assert address.startswith("/tmp/tood-")
    assert said == "1\n"
    assert list(long.iterdir()) == []


FAILING = """
import errno, os, socket, subprocess, sys, tempfile
from tood.runtime import preloaded
def fail(*arguments, **options):
    raise OSError(errno.ENOSPC, "No space left on device")
before = set(os.listdir("/proc/self/fd")), set(os.listdir("/tmp"))
exec(sys.argv[1])
preloaded.start_server(["fractions"])
assert preloaded.ADDRESS not in os.environ
left = set(os.listdir("/tmp")) - before[1]
assert not [name for name in left if name.startswith("tood-")], left
assert len(os.listdir("/proc/self/fd")) == len(before[0])
"""


@pytest.mark.parametrize(
    "fault",
    [
        "tempfile.mkdtemp = fail",
        "socket.socket.listen = fail",
        "subprocess.Popen = fail",
        "socket.socket.bind = fail",
    ],
)
def test_where_a_server_cannot_be_started_there_is_none_and_nothing_is_left(fault):
    outcome = subprocess.run(
        [sys.executable, "-c", FAILING, fault], env=without(os.environ), capture_output=True, text=True
    )
    assert (outcome.returncode, outcome.stderr) == (0, "")


def server_of(address: str) -> int:
    """The process that listens at an address."""
    listening = "00010000"  # in the fourth column
    rows = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()]
    (inode,) = {row[6] for row in rows if row[3] == listening and row[-1] == address}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            links = [os.readlink(link) for link in Path(f"/proc/{process.pid}/fd").iterdir()]
            if f"socket:[{inode}]" in links and "--serve" in process.cmdline():
                return process.pid
    raise AssertionError("no server")


def test_a_job_goes_on_and_says_how_it_ended_where_its_server_is_killed(tmp_path):
    parent, address = started("fractions")
    process = waiting(tmp_path, address)
    os.kill(server_of(address), signal.SIGKILL)
    time.sleep(0.2)
    assert process.poll() is None
    process.terminate()
    assert process.wait(20) == 7
    assert run(tmp_path, address, IMPORTED).stdout == "False\n"  # by itself
    parent.communicate()


def test_a_server_that_cannot_fork_leaves_jobs_to_run_by_themselves(tmp_path):
    parent, address = started("fractions")
    assert run(tmp_path, address, IMPORTED).stdout == "True\n"
    server = psutil.Process(server_of(address))
    _, hard = server.rlimit(psutil.RLIMIT_NOFILE)
    server.rlimit(psutil.RLIMIT_NOFILE, (7, hard))  # not all of a job's streams
    assert run(tmp_path, address, IMPORTED).stdout == "False\n"
    server.rlimit(psutil.RLIMIT_NOFILE, (64, hard))
    wait_until(lambda: run(tmp_path, address, IMPORTED).stdout == "True\n")
    parent.communicate()
