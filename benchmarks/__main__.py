"""Run the benchmarks, write benchmarks/results.json and the table of docs/performance.md."""

import argparse
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import alternate, best_rates, machine
from benchmarks.pair import Benchmark
from benchmarks.report import merge, put_table
from benchmarks.suite import suite
from tood.runtime.device import choose_device

FOLDER = Path(__file__).parent
SIZES: dict[str, dict[str, Any]] = {
    "full": dict(
        size=(800, 1344), batches={4: [7, 30, 100, 500], 16: [7, 30, 100]}, crowd=1000, evaluated=5000
    ),
    "tiny": dict(size=(96, 160), batches={2: [3, 20]}, crowd=40, evaluated=20),
}


def measure(benchmark: Benchmark, seconds: float, rates: tuple[float, float], device: torch.device) -> dict:
    """Compare outputs, then measure; raises AssertionError where outputs differ."""
    pair = benchmark.build(device)
    first, functions = pair.ours(), {"ours": pair.ours}
    if pair.peer is not None:
        pair.compare(first, pair.peer())
        functions["peer"] = pair.peer
    del first
    measured = alternate(functions, seconds, device, benchmark.least_repeats)
    ours, peer = measured["ours"], measured.get("peer")
    return {
        "name": benchmark.name,
        "title": benchmark.title,
        "peer_name": benchmark.peer_name,
        "skipped": pair.skipped,
        "ours": ours._asdict(),
        "peer": peer and peer._asdict(),
        "ratio": peer and peer.median_s / ours.median_s,
        "target": benchmark.target,
        "images_per_second": pair.images / ours.median_s if pair.images else None,
        "target_images_per_second": benchmark.images_per_second,
        "floor": benchmark.floor,
        "floor_s": pair.flops / rates[0] + pair.bytes / rates[1],
        "machine": machine(device),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `python -m benchmarks`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--only", default="", help="benchmarks whose name begins so; the others' results stay"
    )
    parser.add_argument("--size", choices=SIZES, default="full", help="of images and batches")
    parser.add_argument(
        "--seconds", type=float, default=10, help="for each benchmark, after which no repeat begins"
    )
    parser.add_argument("--results", type=Path, default=FOLDER / "results.json")
    parser.add_argument(
        "--page", type=Path, default=FOLDER.parent / "docs/performance.md", help="with the table"
    )
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    device = choose_device("auto")
    rates = best_rates(device)
    results = []
    for benchmark in suite(**SIZES[options.size]):
        if benchmark.name.startswith(options.only):
            result = measure(benchmark, options.seconds, rates, device)
            results.append(result)
            ratio = f"{result['ratio']:.2f} x" if result["ratio"] else result["skipped"]
            print(f"{benchmark.name}: {ratio}", flush=True)
    put_table(options.page, merge(options.results, results))


if __name__ == "__main__":
    main()
