"""Where a result comes from, and whether it would come out the same now.

The `digests` of a result decide the second: `code` (modules and configuration files that a training of the
run uses), `settings` (what the study asks of the run) and `data` (content of the dataset). A measurement on a
trained run has a fourth, `evaluation`. Nothing here imports torch.
"""

import hashlib
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from tood.ledger.code_digest import evaluation_code
from tood.ledger.forms import Provenance
from tood.runtime.files import read_json
from tood.runtime.text import single_line
from tood.study.paths import REPOSITORY
from tood.study.settings import Settings

PACKAGES = (
    *("torch", "torchvision", "onedl-mmcv", "onedl-mmdetection", "onedl-mmengine"),
    *("numpy", "pycocotools", "faster-coco-eval", "snakemake"),
)


def evaluation_digest(result: str, images: int | None) -> str:
    """Digest of how a result is measured on a trained run.

    Args:
        result: name of the result's file, such as "ap.json".
        images: number of validation images that are used, the first ones; None for all.
    """
    return digest({"code": evaluation_code(result), "images": images})


def digest(value: Any) -> str:
    """Twelve hexadecimal digits of a JSON-able value; the order of its keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def data_digest(manifest: Mapping) -> str:
    """Digest of the content of a dataset, whatever its folder.

    Args:
        manifest: result of `tood.data.validation.check_dataset`.
    """
    return digest({key: manifest[key] for key in ("categories", "splits")})


def is_stale(provenance: Mapping, expected: Mapping[str, str]) -> list[str]:
    """The digests in which a result differs from one made now, such as ["code"]; empty if in none.

    Args:
        provenance: mapping with the result's `digests`; without them every digest differs.
        expected: digests of the result if it were made now.
    """
    digests = provenance.get("digests", {})
    return [part for part in expected if digests.get(part) != expected[part]]


def measured_digests(model: Path, evaluation: str) -> dict[str, str]:
    """The digests of a measurement on a trained run: those of the training, and `evaluation`.

    Args:
        model: file of the weights, beside the training's `provenance.json`. Without that file the origin of
            the weights is unknown; the digests are then incomplete, so the result is stale.
        evaluation: result of `evaluation_digest`.
    """
    path = model.with_name("provenance.json")
    trained = read_json(path, Provenance).get("digests", {}) if path.is_file() else {}
    return {**trained, "evaluation": evaluation}


def describe_training(
    *,
    settings: Settings,
    seed: int,
    config: Mapping,
    manifest: Mapping,
    code: str,
    device: str,
    gpus: int,
    summary: Mapping | None = None,
) -> dict:
    """The provenance of a training in this process, JSON-able.

    Args:
        settings: settings of the run, as `tood.study.plan.Plan.settings` returns them.
        seed: seed of the training.
        config: resolved configuration, as plain dictionaries, lists and values.
        manifest: manifest of the checked dataset.
        code: `training_code` of the run.
        device: name of the device.
        gpus: number of GPUs over all machines; 0 on a CPU.
        summary: None at the start; at the end `seconds` (wall time of all attempts), `peak_memory_mb` (None
            on a CPU) and `attempt` (number of attempts).

    Returns:
        A mapping. `finished`, `seconds`, `gpu_hours`, `peak_memory_mb` and `attempts` are None until the end.
        `started` and `finished` are in Unix seconds; `started` is the start of this process.
    """
    ended = summary or {}
    seconds = ended.get("seconds")
    return {
        **_what_decides(settings, seed, config, manifest, code),
        "hardware": {"device": device, "gpus": gpus, **_hardware(gpus)},
        "host": socket.gethostname(),
        "started": psutil.Process().create_time(),
        "finished": time.time() if ended else None,
        "seconds": seconds,
        "gpu_hours": None if seconds is None else seconds * gpus / 3600,
        "peak_memory_mb": ended.get("peak_memory_mb"),
        "attempts": ended.get("attempt"),
        "config": dict(config),
    }


def describe_import(
    *, settings: Settings, seed: int, config: Mapping, manifest: Mapping, code: str, released: Mapping
) -> dict:
    """The provenance of weights that were released by others, JSON-able.

    Args:
        settings, seed, config, manifest, code: as for `describe_training`.
        released: what the file is: its name, bytes, sha256 and origin.
    """
    return {
        **_what_decides(settings, seed, config, manifest, code),
        "released": dict(released),
        "host": socket.gethostname(),
        "finished": time.time(),
        "config": dict(config),
    }


def _what_decides(settings: Settings, seed: int, config: Mapping, manifest: Mapping, code: str) -> dict:
    """What a model was made with, and the digests of that."""
    return {
        "run": settings["run"]["id"],
        "seed": seed,
        "digests": {"code": code, "settings": digest(settings), "data": data_digest(manifest)},
        "settings": dict(settings),
        "config_hash": digest(config),
        "data": {
            "root": manifest["root"],
            **{
                name: {key: split[key] for key in ("images", "sha256", "image_digest")}
                for name, split in manifest["splits"].items()
            },
            "notes": manifest.get("notes", []),
        },
        "git": revision(),
        "packages": {"python": platform.python_version(), **_versions()},
    }


_CHANGES = ("status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)results")


def revision() -> dict:
    """The checkout's `commit` and whether tracked files differ from it (`dirty`), or why neither is known.

    Files below `results/` do not count, as a study changes them itself.

    Returns:
        `commit` and `dirty`; without them `unknown`, a line that says why
    """
    if shutil.which("git") is None:
        return {"unknown": "git is not installed"}
    answers = []
    for question in (("rev-parse", "HEAD"), _CHANGES):
        done = _run("git", "-C", REPOSITORY, *question)
        if done.returncode:
            return {"unknown": _why_unknown(done.stderr)}
        answers.append(done.stdout.strip())
    commit, changes = answers
    return {"commit": commit, "dirty": bool(changes)}


def _why_unknown(message: str) -> str:
    """One line on why git gave no commit."""
    for part, reason in (
        ("not a git repository", "the suite's folder is not a git repository, such as an unpacked archive"),
        (
            "dubious ownership",
            "the suite's folder belongs to another user, so git refuses to read it; allow it by "
            "`git config --global --add safe.directory FOLDER`",
        ),
        ("ambiguous argument 'HEAD'", "the repository has no commit yet"),
    ):
        if part in message:
            return reason
    return "git failed: " + single_line(message)


def _versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return versions


def _hardware(gpus: int) -> dict:
    cuda = getattr(sys.modules.get("torch"), "cuda", None)  # a trainer has imported it already
    names, driver = [], None
    if gpus and cuda is not None and cuda.is_available():
        names = [cuda.get_device_name(index) for index in range(min(gpus, cuda.device_count()))]
        driver = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "memory_mb": round(psutil.virtual_memory().total / 2**20),
        "gpu_names": names,  # of this machine alone
        "driver": driver and driver.splitlines()[0],
        "cuda": sys.modules["torch"].version.cuda if names else None,
        "tf32": _tf32() if names else None,
    }


def _tf32() -> dict[str, bool]:
    """Whether the GPUs may round what they multiply to TF32, if they have it."""
    backends = sys.modules["torch"].backends
    return {"convolutions": backends.cudnn.allow_tf32, "products": backends.cuda.matmul.allow_tf32}


def cpu_model() -> str:
    """The processor's name, as the system has it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []  # other systems than Linux
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or platform.machine())


def _output(program: str, *arguments: object) -> str | None:
    """Output of a program; None if it is not installed or fails."""
    if shutil.which(program) is None:
        return None
    done = _run(program, *arguments)
    return done.stdout.strip() if done.returncode == 0 else None


def _run(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a program, whose messages are in English."""
    environment = os.environ | {"LC_ALL": "C"}
    return subprocess.run(
        [program, *map(str, arguments)], capture_output=True, text=True, errors="replace", env=environment
    )
