"""Time and memory of two functions that do the same, measured in turn."""

import ctypes
import gc
import os
import platform
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

LEAST_REPEATS, MOST_REPEATS = 3, 15
PROCESS = Path("/proc/self")


class Measured(NamedTuple):
    """Of one function."""

    median_s: float
    fastest_s: float
    slowest_s: float
    peak_mb: float | None  # more than before the call, at most; None where the system does not say


def alternate(
    functions: dict[str, Callable[[], Any]], seconds: float, device: torch.device, least: int = LEAST_REPEATS
) -> dict[str, Measured]:
    """Measure functions in turn until the time is over, a few times at least.

    Args:
        functions: by name; each has run once already.
        seconds: for all of them.
        device: where they work.
        least: number of repeats, also where they take longer.
    """
    times: dict[str, list[float]] = {name: [] for name in functions}
    began = time.perf_counter()
    for repeat in range(MOST_REPEATS):
        if repeat >= least and time.perf_counter() - began > seconds:
            break
        for name, function in functions.items():
            times[name].append(_timed(function, device))
    return {
        name: Measured(
            statistics.median(times[name]),
            min(times[name]),
            max(times[name]),
            peak_memory(function, device),
        )
        for name, function in functions.items()
    }


def _timed(function: Callable[[], Any], device: torch.device) -> float:
    gc.collect()
    _wait(device)
    start = time.perf_counter()
    function()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(function: Callable[[], Any], device: torch.device) -> float | None:
    """The most memory (10^6 bytes) that a call takes beside what was taken before."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        function()
        return (torch.cuda.max_memory_allocated(device) - before) / 1e6
    try:
        ctypes.CDLL(None).malloc_trim(0)  # what was freed would serve the call unseen
        (PROCESS / "clear_refs").write_text("5")  # the peak of resident memory starts anew
    except (OSError, AttributeError):
        return None
    before = _resident("VmRSS")
    function()
    return (_resident("VmHWM") - before) / 1e6


def _resident(field: str) -> int:
    return int(re.search(rf"{field}:\s+(\d+) kB", (PROCESS / "status").read_text())[1]) * 1024


def machine(device: torch.device) -> dict[str, Any]:
    """What the numbers were measured on."""
    info = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*:\s*(.*)", info.read_text()) if info.is_file() else None
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "cpu": model[1] if model else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),  # of the minute before
        "torch": torch.__version__,
    }


def best_rates(device: torch.device) -> tuple[float, float]:
    """The best of the device: operations per second of a float32 matrix product, bytes copied per second."""
    a = torch.randn(1024, 1024, device=device)
    big = torch.empty(2**26, device=device)
    other = torch.empty_like(big)

    def best(function: Callable[[], Any]) -> float:
        function()
        return min(_timed(function, device) for _ in range(7))

    return 2 * 1024**3 / best(lambda: a @ a), 2 * 4 * 2**26 / best(lambda: other.copy_(big))
