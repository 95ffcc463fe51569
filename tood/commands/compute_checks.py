"""The part of `tood doctor` that looks at what computes: torch, its GPUs, and mmcv's operators."""

import importlib
import shutil
from collections.abc import Iterator
from types import ModuleType

from tood.commands.findings import Finding, Outcome
from tood.runtime.mmcv_operators import EXTENSION, UncompiledOperators

# NVIDIA's first driver for Linux on which all of a major version of CUDA runs (CUDA's release notes)
LEAST_DRIVERS = {"12": "525.60", "13": "580.65"}


def mmcv_operators() -> Iterator[Finding]:
    """Whether mmdet can be imported, which operators that were compiled for another torch prevent."""
    import torch  # noqa: F401  (compiled operators link against it)

    try:
        operators = importlib.import_module(EXTENSION)
    except ImportError as error:
        hint = "remove that file, as none is needed, or compile them for the torch that is installed"
        yield Finding("mmcv operators", Outcome.MISSING, f"cannot be loaded: {error}", hint, required=True)
        return
    compiled = not isinstance(operators, UncompiledOperators)
    yield Finding(
        "mmcv operators", Outcome.OK, f"{'compiled' if compiled else 'not compiled'}; none is called"
    )


def torch_and_gpus() -> Iterator[Finding]:
    """Which CUDA torch is built for, and whether it can compute on each GPU that it sees."""
    import torch
    from torchvision.ops import nms

    from tood.runtime.device import OLDER_BUILD, gpu_problem

    cuda = torch.version.cuda
    yield Finding("torch", Outcome.OK, f"built for CUDA {cuda}" if cuda else "built for the CPU only")
    if not torch.cuda.is_available():
        yield _no_gpu(cuda)
        return
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        what, detail = f"GPU {index}", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
        if problem := gpu_problem(index):
            yield Finding(what, Outcome.MISSING, f"not used: {problem}", OLDER_BUILD)
            continue
        try:
            kept = nms(*_overlapping(torch, f"cuda:{index}"), 0.5).tolist()
            fault = None if kept == [0] else f"kept {kept} instead of [0]"
        except RuntimeError as error:
            fault = str(error).partition("\n")[0]
        if fault is None:
            yield Finding(what, Outcome.OK, f"{detail}; torchvision's nms works on it")
        else:
            hint = f"use {_driver(cuda)}, or `--config device=cpu` to leave the GPU alone"
            problem = f"{detail}; torchvision's nms fails on it: {fault}"
            yield Finding(what, Outcome.MISSING, problem, hint, required=True)


def _no_gpu(cuda: str | None) -> Finding:
    from tood.runtime.device import OLDER_BUILD
    from tood.study.scales import load_scale, scale_names

    scales = [load_scale(name) for name in scale_names()]
    on_cpu = ", ".join(scale.name for scale in scales if scale.device != "cuda")
    on_gpu = ", ".join(scale.name for scale in scales if scale.device == "cuda")
    hint = f"for {on_gpu} use a machine that has one, or `--profile slurm`"
    if cuda and shutil.which("nvidia-smi"):
        hint += (
            f"; if this machine has one, `nvidia-smi` must show {_driver(cuda)}; for older drivers, down to "
        )
        hint += f"{LEAST_DRIVERS['12']}, and older GPUs {OLDER_BUILD}"
    return Finding("GPU", Outcome.NOTE, f"none; {on_cpu} run on the CPU, {on_gpu} needs a GPU", hint)


def _driver(cuda: str | None) -> str:
    """Which driver a build of torch needs."""
    least = LEAST_DRIVERS.get((cuda or "").partition(".")[0])
    return f"a driver for CUDA {cuda} or later" + (f", from {least} on" if least else "")


def _overlapping(torch: ModuleType, device: str = "cpu") -> tuple:
    """Two boxes of which nms keeps the first, and their scores."""
    boxes = [[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 9.0]]
    return torch.tensor(boxes, device=device), torch.tensor([0.9, 0.8], device=device)
