"""What is to be known of a GPU that is lent for ten minutes: one script, one JSON file with the card's name.

    python -m benchmarks.gpu                          # on the GPU; writes benchmarks/gpu/CARD.json
    python -m benchmarks.gpu --device cpu --tiny      # tries the script itself

Each part runs in a process of its own, as an error may leave a GPU unusable, and the file is written after
each. It needs torch, mmdet and what `tood` imports, and neither Snakemake nor a network.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "gpu"
SECONDS = 560  # for all parts; one that has not begun by then is left out
RUNS = ("tood_af", "tood_x101_64x4d_dcn")  # whose speed is measured at the paper's size
SMOKE = ("tood_af", "atss_ab", "paa", "vfnet_x101_64x4d_dcn")
PRECISIONS = ("float32", "bf16")
CLOSE = 2e-3  # of a gradient on the GPU to that on the CPU, both in float32, relative to its norm
IMAGES = 400  # of which the speed is measured; few ones are repeated
# Calls of CUDA for which the host waits
WAITS = re.compile(r"cuda(Stream|Device|Event)Synchronize|cudaMemcpy$|Memcpy DtoH")

Part = Callable[[argparse.Namespace], Any]


def device_part(options: argparse.Namespace) -> dict[str, Any]:
    """What the device is."""
    import torch

    from benchmarks.measure import machine

    device = torch.device(options.device)
    facts: dict[str, Any] = machine(device)
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts |= {
            "capability": f"{properties.major}.{properties.minor}",
            "memory_mb": round(properties.total_memory / 2**20),
            "built_for": torch.cuda.get_arch_list(),
            "cuda": torch.version.cuda,
            "tf32": [torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32],
        }
    return facts


def equal_part(options: argparse.Namespace) -> dict[str, Any]:
    """Losses and gradients of a step of each kind of detector, on the device and on the CPU, by float32."""
    import torch

    from tests.helpers.detectors import batch, build
    from tood.data.loading import LocalBatch
    from tood.engine.config import place_anchors
    from tood.engine.replicas import batch_gradient

    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False

    def step(name: str, device: torch.device) -> tuple[float, torch.Tensor]:
        model = build(name).to(device).train()
        place_anchors(model.bbox_head, device)
        model.bbox_head.set_progress(4, 0.3)
        losses = batch_gradient(model, LocalBatch([batch()], 1))
        gradients = [p.grad.flatten().cpu() for p in model.parameters() if p.grad is not None]
        return float(losses["loss"]), torch.cat(gradients)

    comparisons = {}
    for name in _kinds(options):
        (loss, gradient), (expected, reference) = (
            step(name, torch.device(kind)) for kind in (options.device, "cpu")
        )
        apart = float((gradient - reference).norm() / reference.norm())
        comparisons[name] = {
            "loss": loss,
            "loss_on_cpu": expected,
            "gradient_apart": apart,
            "close": abs(loss - expected) <= CLOSE * abs(expected) and apart <= CLOSE,
        }
    return comparisons


def parity_part(options: argparse.Namespace) -> dict[str, str]:
    """Our losses, gradients and maps against mmdet's, on the device, as the benchmarks compare them."""
    import torch

    from benchmarks.__main__ import SIZES
    from benchmarks.suite import suite

    verdicts = {}
    for benchmark in suite(**SIZES["tiny"]):
        try:
            pair = benchmark.build(torch.device(options.device))
            if pair.peer is not None:
                pair.compare(pair.ours(), pair.peer())
            verdicts[benchmark.name] = "equal" if pair.peer else "no peer"
        except Exception as error:
            verdicts[benchmark.name] = f"{type(error).__name__}: {str(error)[:300]}"
    return verdicts


def waits_part(options: argparse.Namespace) -> dict[str, dict[str, int]]:
    """Calls of CUDA in the second step of each kind of detector, preprocessor and update included."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    from tests.helpers.detectors import CATEGORIES, MODELS, batch, build
    from tood.data.loading import LocalBatch
    from tood.engine.config import place_anchors, resolve
    from tood.engine.optimizer import build_optimizer
    from tood.engine.replicas import batch_gradient
    from tood.study.plan import Plan

    device, counts = torch.device(options.device), {}
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    for name in _kinds(options):
        model = build(name).to(device).train()
        place_anchors(model.bbox_head, device)
        config = resolve(Plan({}).settings(MODELS[name][0]), CATEGORIES, None).train
        optimizer = build_optimizer(model, config)
        model.bbox_head.set_progress(4, 0.3)

        def step(model: Any = model, optimizer: Any = optimizer) -> None:
            batch_gradient(model, LocalBatch([batch()], 1))
            optimizer.step()

        step()
        with profile(activities=activities) as profiled:
            step()
        calls = Counter({event.key: event.count for event in profiled.key_averages()})
        counts[name] = {
            key: n for key, n in calls.items() if WAITS.search(key) or key.startswith("cudaLaunch")
        }
        counts[name]["waits"] = sum(n for key, n in calls.items() if WAITS.search(key))
    return counts


def smoke_part(options: argparse.Namespace) -> dict[str, Any]:
    """Trainings and evaluations of narrow detectors."""
    from tood.data.synthetic import DrawingSpec, generate

    root = Path(options.folder) / "drawn"
    generate(root, DrawingSpec(seed=0, train_images=48, val_images=8, image_size=(64, 64)))
    return {
        run: _rehearsed(run, root, options, scale="smoke") for run in SMOKE[: 1 if options.tiny else None]
    }


def speed_part(run: str, precision: str) -> Part:
    """Images per second and memory of a run at the paper's size, by the number of images at a time."""

    def measure(options: argparse.Namespace) -> dict[str, Any]:
        root = many_images(Path(options.folder) / "photographs", options)
        small = {"scale": "smoke"} if options.tiny else {"scale": "paper"}
        return _rehearsed(run, root, options, precision=precision, **small)

    return measure


PARTS: dict[str, Part] = {
    "device": device_part,
    "smoke": smoke_part,
    "equal": equal_part,
    "waits": waits_part,
    **{f"speed {run} {precision}": speed_part(run, precision) for run in RUNS for precision in PRECISIONS},
    "parity": parity_part,
}


def _kinds(options: argparse.Namespace) -> list[str]:
    from tests.helpers.detectors import MODELS

    return list(MODELS)[: 2 if options.tiny else None]


def _rehearsed(run: str, root: Path, options: argparse.Namespace, **choices: str) -> dict[str, Any]:
    """What a rehearsal measures of a run."""
    from tood.analysis.rehearsal import rehearse
    from tood.data.sample import take_sample
    from tood.ledger.rehearsal import file_of
    from tood.runtime.files import write_json
    from tood.study.jobs import Execution
    from tood.study.paths import StudyPaths
    from tood.study.plan import Plan
    from tood.workflow.rehearsing import LARGEST_IMAGES, rehearsal_job

    plan = Plan({"name": "lent", "data_root": root, "runs": run, "device": options.device, **choices})
    paths, splits = StudyPaths(plan.name), plan.splits
    manifest = take_sample(
        root,
        splits["train"],
        splits["val"],
        paths.rehearsal / "data",
        size=plan.input_sizes[0],
        typical=IMAGES,
        largest=LARGEST_IMAGES,
        evaluated=4,
    )
    write_json(paths.rehearsal / "manifest.json", manifest)
    computing = plan.resources(run)
    output = file_of(paths, run)
    output.parent.mkdir(parents=True, exist_ok=True)
    job = rehearsal_job(plan, run, False, 4)
    rehearsed = rehearse(job, Execution.of(computing, plan.device, computing.threads), output)
    if rehearsed.failed:
        raise RuntimeError(rehearsed.failed)
    return rehearsed.model_dump(exclude={"digest", "failed"})


def many_images(root: Path, options: argparse.Namespace) -> Path:
    """A dataset in COCO's layout with as many training images as are wanted: few ones, repeatedly."""
    from tests.helpers.photographs import write_photographs

    source = options.data_root.resolve() if options.data_root else write_photographs(root / "source")
    target, (train, val) = root / "many", ("train2017", "val2017")
    (target / "annotations").mkdir(parents=True)
    (target / val).symlink_to(source / val)
    (target / train).mkdir()
    shutil.copy(source / f"annotations/instances_{val}.json", target / "annotations")
    content = json.loads((source / f"annotations/instances_{train}.json").read_text())
    images, annotations = [], []
    for number in range(IMAGES):
        image = content["images"][number % len(content["images"])]
        name = f"{number}_{Path(image['file_name']).name}"
        (target / train / name).symlink_to(source / train / image["file_name"])
        images.append(image | {"id": number + 1, "file_name": name})
        for annotation in content["annotations"]:
            if annotation["image_id"] == image["id"]:
                annotations.append(annotation | {"id": len(annotations) + 1, "image_id": number + 1})
    content |= {"images": images, "annotations": annotations}
    (target / f"annotations/instances_{train}.json").write_text(json.dumps(content))
    return target


def _run_part(name: str, options: argparse.Namespace, seconds: float) -> dict[str, Any]:
    """A part in a process of its own, and what came of it."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        words = ["--part", name, "--folder", folder, "--device", options.device]
        words += ["--tiny"] * options.tiny
        words += ["--data-root", str(options.data_root.resolve())] if options.data_root else []
        try:
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.gpu", *words],
                capture_output=True,
                text=True,
                timeout=seconds,
            )
            result = Path(folder) / "result.json"
            if done.returncode or not result.is_file():
                outcome = {"failed": (done.stderr.strip() or f"status {done.returncode}")[-2000:]}
            else:
                outcome = {"found": json.loads(result.read_text())}
        except subprocess.TimeoutExpired:
            outcome = {"failed": f"not done within {seconds:.0f} s"}
    return outcome | {"seconds": round(time.monotonic() - start, 1)}


def differing(parts: dict[str, Any]) -> list[str]:
    """What the comparisons found to differ."""
    equal, parity = (parts.get(name, {}).get("found", {}) for name in ("equal", "parity"))
    return [
        *(name for name, comparison in equal.items() if not comparison["close"]),
        *(name for name, verdict in parity.items() if verdict not in ("equal", "no peer")),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `python -m benchmarks.gpu`; 1 where a part failed, was left out, or found
    that something differs."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for all parts")
    parser.add_argument(
        "--data-root", type=Path, help="COCO's layout; default: two photographs, cut in pieces"
    )
    parser.add_argument("--tiny", action="store_true", help="narrow detectors only, to try the script")
    parser.add_argument("--output", type=Path, help="default: benchmarks/gpu/CARD.json")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.part:
        from tood.runtime.files import write_json

        warnings.simplefilter("ignore")
        os.chdir(options.folder)
        try:
            write_json(Path("result.json"), PARTS[options.part](options))
        except Exception:
            traceback.print_exc()
            return 1
        return 0
    start, parts = time.monotonic(), {}
    for name in PARTS:
        left = options.seconds - (time.monotonic() - start)
        parts[name] = _run_part(name, options, left) if left > 0 else {"failed": "no time was left"}
        card = parts.get("device", {}).get("found", {}).get("device", options.device)
        output = options.output or FOLDER / f"{re.sub('[^A-Za-z0-9]+', '_', card)}.json"
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps({"card": card, "tiny": options.tiny, "parts": parts}, indent=1) + "\n")
        outcome = parts[name].get("failed", "done").splitlines()[-1]
        print(f"{name}: {outcome} ({parts[name].get('seconds', 0)} s)", flush=True)
    for name in differing(parts):
        print(f"{name}: not as on the CPU, or not as mmdet")
    print(f"written to {output}")
    return int(any("failed" in part for part in parts.values()) or bool(differing(parts)))


if __name__ == "__main__":
    sys.exit(main())
