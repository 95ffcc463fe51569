"""Which device a process takes: what torch has code for, what others hold, and what its siblings take."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from helpers.gpus import ARCHITECTURES, shown

from tood.runtime import device
from tood.runtime.device import allow_tf32, choose_device, has_code_for, take_gpus

CPU = torch.device("cpu")
REPOSITORY = Path(__file__).parents[2]


def cuda(index: int) -> torch.device:
    return torch.device("cuda", index)


@pytest.fixture(autouse=True)
def as_it_was():
    """What is chosen holds for a process, so a test begins and ends without it."""
    backends = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [backend.allow_tf32 for backend in backends]
    yield
    device._own_gpu.cache_clear()
    for lock in device._HELD:
        lock.release()
    device._HELD.clear()
    for backend, allowed in zip(backends, before, strict=True):
        backend.allow_tf32 = allowed


@pytest.fixture
def gpus(monkeypatch, tmp_path) -> Callable[..., list[torch.device]]:
    """Lets GPUs of these capabilities be seen; nothing is computed there. Gives what is set as current."""
    monkeypatch.setattr(device.tempfile, "gettempdir", lambda: str(tmp_path))

    def seen(*capabilities: tuple[int, int]) -> list[torch.device]:
        current: list[torch.device] = []
        for name, value in shown(capabilities, current).items():
            monkeypatch.setattr(torch.cuda, name, value)
        return current

    return seen


def another_process() -> None:
    """What this process has taken stays held, and it asks again as another one would."""
    device._own_gpu.cache_clear()


def lock_of(index: int, place: int = 0) -> str:
    return f"tood-gpu-{os.getuid()}-GPU-{index}-{place}.lock"


# What torch has code for


@pytest.mark.parametrize(
    ("capability", "architectures", "runs"),
    [
        ((7, 0), ARCHITECTURES, False),  # V100
        ((6, 1), ARCHITECTURES, False),  # GTX 10xx
        ((7, 5), ARCHITECTURES, True),  # T4
        ((8, 9), ARCHITECTURES, True),  # RTX 40xx, by the code for 8.6
        ((9, 0), ARCHITECTURES, True),
        ((11, 0), ARCHITECTURES, False),  # code for 10.0 is of another major version
        ((12, 1), ARCHITECTURES, True),
        ((7, 0), ["sm_50", "sm_60", "sm_70", "sm_75"], True),
        ((6, 1), ["sm_50", "sm_60", "sm_70", "sm_75"], True),
        ((8, 0), ["sm_86"], False),  # older within its major version
        ((13, 0), ["sm_75", "compute_120"], True),
        ((11, 0), ["sm_75", "compute_120"], False),
        ((9, 0), ["sm_90a"], True),
        ((9, 1), ["sm_90a", "compute_90a"], False),
        ((10, 3), ["sm_100f"], True),
        ((11, 0), ["compute_100f"], False),
        ((9, 0), ["gfx90a", "gfx942"], True),  # AMD's
        ((9, 0), [], True),
    ],
)
def test_which_code_runs_on_which_gpu(capability, architectures, runs):
    assert has_code_for(capability, architectures) is runs


def test_the_cpu_takes_over_from_a_gpu_that_is_too_old(gpus, capsys):
    gpus((7, 0))
    assert choose_device("auto") == CPU
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "no GPU can be used, so the CPU computes: GPU 0 (Toy 0) has compute capability 7.0"
    )
    assert "sm_75" in line
    assert line.endswith("`make TORCH=cu126` installs a build of torch for older GPUs")


def test_who_wants_a_gpu_is_told_why_there_is_none(gpus):
    gpus((7, 0), (6, 1))
    with pytest.raises(RuntimeError, match=r"GPU 0 .* 7\.0.*GPU 1 .* 6\.1.*TORCH=cu126.*--config device=cpu"):
        choose_device("cuda")


def test_a_good_gpu_beside_an_old_one_is_taken(gpus, capsys):
    current = gpus((7, 0), (8, 6), (6, 1))
    assert choose_device("auto") == choose_device("cuda") == cuda(1)
    assert current[0] == cuda(1)
    assert capsys.readouterr().err == ""


def test_devices(gpus):
    gpus()
    assert choose_device("auto") == choose_device("cpu") == CPU
    with pytest.raises(RuntimeError, match=r"GPU.*`tood doctor`.*--config device=cpu"):
        choose_device("cuda")
    gpus((8, 0))
    assert choose_device("auto").type == choose_device("cuda").type == "cuda"
    assert choose_device("cpu") == CPU


# What others hold


def test_each_process_takes_a_gpu_of_its_own(gpus, tmp_path):
    """One that another process has is passed over, and is free when that one ends."""
    code = (
        "import sys, time; from filelock import FileLock\n"
        "lock = FileLock(sys.argv[1]); lock.acquire(); print('held', flush=True); time.sleep(60)"
    )
    gpus((8, 0), (8, 0))
    call = [sys.executable, "-c", code, tmp_path / lock_of(0)]
    with subprocess.Popen(call, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        assert choose_device("auto") == cuda(1)
        other.kill()
    another_process()
    assert choose_device("cuda") == cuda(0)
    assert [Path(lock.lock_file).name for lock in device._HELD] == [lock_of(1), lock_of(0)]


def test_a_process_asks_once(gpus):
    """Two detectors in one process, as in Figure 1, take one GPU."""
    gpus((8, 0), (8, 0))
    assert [choose_device("cuda"), choose_device("auto"), choose_device("cuda")] == [cuda(0)] * 3
    assert len(device._HELD) == 1


def test_where_all_are_held_the_least_used_is_shared(gpus):
    gpus((8, 0), (8, 0), (8, 0))
    found = []
    for _ in range(6):
        found += take_gpus([0, 1, 2], 1)
    assert found == [0, 1, 2, 0, 1, 2]
    first_of_1 = next(lock for lock in device._HELD if lock.lock_file.endswith(lock_of(1)))
    first_of_1.release()
    assert take_gpus([0, 1, 2], 1) == [1]


def test_a_gpu_for_a_user_without_a_name(gpus, monkeypatch):
    """As in a container that runs under any number."""
    gpus((8, 0))
    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("os.getuid", lambda: 987_654)
    assert choose_device("cuda") == cuda(0)
    assert "-987654-" in device._HELD[0].lock_file


@pytest.mark.parametrize("fault", ["folder in its place", "no folder"])
def test_gpus_are_shared_where_none_can_be_locked(gpus, monkeypatch, tmp_path, fault):
    gpus((8, 0), (8, 0))
    if fault == "no folder":
        (tmp_path / "file").touch()
        monkeypatch.setattr(device.tempfile, "gettempdir", lambda: str(tmp_path / "file"))
    else:
        for index in range(2):
            for place in range(device._MOST_ON_ONE):
                (tmp_path / lock_of(index, place)).mkdir()
    assert choose_device("cuda") == cuda(0)
    assert take_gpus([0, 1], 2) == [0, 1]
    assert device._HELD == []


# What siblings take


def ranks(number: int, gpus: int, folder: Path, **environment: str) -> list[str]:
    """What the processes of one training say that they take on a machine with so many GPUs, by rank."""
    call = [sys.executable, "-m", "tood.runtime.launch", "--standalone", "--nproc-per-node", number]
    call += ["tests/helpers/gpu_ranks.py", gpus]
    given = {"PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'tests'}", "TMPDIR": str(folder)}
    outcome = subprocess.run(
        list(map(str, call)),
        cwd=REPOSITORY,
        env=os.environ | given | environment,
        capture_output=True,
        text=True,
    )
    assert outcome.returncode == 0, outcome.stderr
    said = dict(re.findall(r"rank (\d+): (.*)", outcome.stdout))
    return [said[str(rank)] for rank in range(number)]


def test_two_ranks_take_two_gpus_also_where_one_is_held(tmp_path):
    """By itself each would fall back to its own number, and both could have the same."""
    with FileLock(tmp_path / lock_of(0)):
        assert sorted(ranks(2, 2, tmp_path)) == ["0", "1"]


def test_four_ranks_take_the_free_gpus_and_then_the_least_used(tmp_path):
    with FileLock(tmp_path / lock_of(0)), FileLock(tmp_path / lock_of(0, 1)), FileLock(tmp_path / lock_of(2)):
        assert ranks(4, 5, tmp_path) == ["1", "3", "4", "2"]


def test_more_ranks_than_gpus_are_refused_by_all(tmp_path):
    """NCCL takes no GPU twice. mmengine, which looks for the GPU of a rank, does not fail before."""
    said = ranks(2, 1, tmp_path, CUDA_VISIBLE_DEVICES="3")
    assert len(set(said)) == 1
    assert said[0].startswith("2 processes of one training need a GPU each")
    assert said[0].endswith("set gpus=1")


# Precision


@pytest.mark.parametrize("wanted", ["auto", "cuda"])
def test_float32_is_float32_in_convolutions_and_products_alike(gpus, wanted):
    gpus((8, 0))
    choose_device(wanted)
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


def test_tf32_is_for_both():
    allow_tf32(True)
    assert torch.backends.cudnn.allow_tf32
    assert torch.backends.cuda.matmul.allow_tf32
