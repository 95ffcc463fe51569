"""What this machine and its environment lack for the study, and what to do about it.

`environment_problem` and `writable_problem` are cheap and guard every call of the workflow. `examine` is the
thorough check of `tood doctor`. Heavy packages are imported only where they are examined: a broken package
must become a finding and not a traceback.
"""

import errno
import os
import platform
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from tood.commands import compute_checks
from tood.commands.findings import Finding, Outcome
from tood.study.paths import REPOSITORY

if TYPE_CHECKING:
    from tood.study.scales import Scale

WEIGHTS = Path("weights", "resnet50.pth")
LEAST_FREE_GB = 20
SHARED_MEMORY = Path("/dev/shm")
_BATCH, _SIDES = 16, (1333, 800)  # of the configurations, where a scale says no others
_PREFETCHED = 2  # batches that torch lets each loading process have ready
SLURM_COMMANDS = ("sbatch", "squeue", "sacct")
SLURM_PROFILE = Path("profiles", "slurm", "profile.yaml")
# The Slurm executor asks at intervals of 180 seconds or less.
LEAST_MIN_JOB_AGE = 200

_ENV_HINT = "`make env` builds it"


def environment_problem() -> str | None:
    """Why this Python environment cannot run the workflow, as one message; None if it can.

    Nothing heavy is imported, so this is cheap. `examine` checks that the compiled packages also load.
    """
    faults = [finding for finding in _environment() if finding.state == Outcome.MISSING]
    if not faults:
        return None
    problems = "; ".join(f"{fault.what}: {fault.detail}" for fault in faults)
    hints = "; ".join(dict.fromkeys(fault.hint for fault in faults))
    return f"the Python environment {sys.prefix} cannot run the study: {problems}. {hints}"


def blocked_problem(folder: Path) -> str | None:
    """The file that is in the place of `folder` or of one above it, with a hint; None if there is none."""
    for path in (folder, *folder.parents):
        if os.path.lexists(path) and not path.is_dir():
            return f"{folder}: cannot be made, as {path} is not a folder; rename or remove {path}"
    return None


def writable_problem(folder: Path) -> str | None:
    """Why no file can be written in `folder`, with a hint; None if one can. The folder is made if absent."""
    if problem := blocked_problem(folder):
        return problem
    # A file is really written: modes do not bind root, nor show a full disk or a read-only mount.
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".writable-") as file:
            file.write(b"\0" * 4096)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            hint = "free some space there"
        else:
            hint = "make it writable for this account, or put a link to a writable folder in its place"
        return f"{folder}: nothing can be written there ({error.strerror}); {hint}"
    return None


def slurm_problems() -> list[str]:
    """Settings of this Slurm with which the workflow would fail or wait for ever, each with a hint."""
    import yaml
    from snakemake_executor_plugin_slurm.job_status_query import get_min_job_age

    profile = yaml.safe_load((REPOSITORY / SLURM_PROFILE).read_text(encoding="utf-8")) or {}
    problems = []
    resources = str(profile.get("default-resources"))  # a mapping, or a list such as [slurm_account=mine]
    if not shutil.which("sacct") and "slurm_account" not in resources:
        problems.append(
            f"there is no `sacct`, which finds the account: set slurm_account in {SLURM_PROFILE} (to any "
            "name if this Slurm has no accounts)"
        )
    age = get_min_job_age()
    if age is None:
        problems.append("the controller does not answer `scontrol show config`: ask the administrator")
    elif age < LEAST_MIN_JOB_AGE and profile.get("slurm-status-command") == "squeue":
        problems.append(
            f"squeue forgets ended jobs after {age} s, perhaps before the workflow asks for them: let the "
            "administrator raise MinJobAge to 300, or, if `sacct` knows all jobs, set slurm-status-command: "
            f"sacct in {SLURM_PROFILE}"
        )
    return problems


def examine(data_root: Path | None = None, scale_name: str | None = None) -> list[Finding]:
    """The result of every check.

    Args:
        data_root: folder in the COCO layout, for the scales without synthetic data.
        scale_name: scale whose data is required; None checks the data of all scales and requires none.
    """
    findings = []
    for section, what, check in (
        ("environment", "packages", _environment),
        ("data", "scales", lambda: data_findings(data_root, scale_name)),
        ("compute", "mmcv operators", compute_checks.mmcv_operators),
        ("compute", "torch", compute_checks.torch_and_gpus),
        ("machine", "resources", machine_findings),
        ("machine", "shared memory", _shared_memory),
    ):
        try:
            for finding in check():
                findings.append(replace(finding, section=section))
        except (ImportError, OSError, RuntimeError) as error:
            problem = f"cannot be examined: {error}"
            findings.append(
                Finding(what, Outcome.MISSING, problem, _ENV_HINT, required=True, section=section)
            )
    return findings


def _environment() -> Iterator[Finding]:
    """Python, and every package that pyproject.toml declares."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    yield _version("Python", platform.python_version(), SpecifierSet(project["requires-python"]))
    for requirement in map(Requirement, project["dependencies"]):
        try:
            installed = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            installed = None
        yield _version(requirement.name, installed, requirement.specifier)


def _version(name: str, installed: str | None, wanted: SpecifierSet) -> Finding:
    if installed and wanted.contains(installed, prereleases=True):
        return Finding(name, Outcome.OK, installed, required=True)
    problem = f"{installed} is installed" if installed else "not installed"
    if wanted:
        problem += f", {wanted} is needed"
    return Finding(name, Outcome.MISSING, problem, _ENV_HINT, required=True)


def data_findings(data_root: Path | None, scale_name: str | None) -> Iterator[Finding]:
    """The dataset of each scale, and the weights that some start from."""
    from tood.data.synthetic import SPEC_FILE
    from tood.study.scales import load_scale, scale_names

    scales = [load_scale(name) for name in ([scale_name] if scale_name else scale_names())]
    for scale in scales:
        what, root = f"data of {scale.name}", scale.data_root
        if not scale.drawing or (scale_name and data_root):
            # Data that was asked for is required; without --scale and --data-root nobody may want it.
            folder = data_root.absolute() if data_root else REPOSITORY / root
            required = bool(scale_name or data_root)
            yield _dataset(what, folder, data_root or root, scale, required)
        elif (REPOSITORY / root / SPEC_FILE).is_file():
            yield Finding(what, Outcome.OK, f"{root}, generated")
        else:
            yield Finding(what, Outcome.NOTE, f"{root}: not there yet, drawn on the first run")
    if needing := ", ".join(scale.name for scale in scales if scale.weights == "imagenet"):
        if (REPOSITORY / WEIGHTS).is_file():
            yield Finding(f"weights for {needing}", Outcome.OK, str(WEIGHTS))
        else:
            hint = "the workflow fetches it; if it cannot, put torchvision's ImageNet ResNet-50 there by hand"
            yield Finding(f"weights for {needing}", Outcome.NOTE, f"{WEIGHTS}: not there yet", hint)


def _dataset(what: str, folder: Path, shown: Path, scale: "Scale", required: bool) -> Finding:
    """Whether a folder in the COCO layout has the files of a scale; the workflow checks their content."""
    expected = [scale.train.annotations, scale.val.annotations, scale.train.images, scale.val.images]
    # os.path.exists treats an unreadable path as absent, where Path.exists raises.
    absent = [name for name in expected if not os.path.exists(folder / name)]
    if not absent:
        return Finding(what, Outcome.OK, str(shown), required=required)
    problem = f"{shown} has no {', '.join(absent)}" if folder.is_dir() else f"no folder {shown}"
    hint = f"pass `--config scale={scale.name} data_root=PATH`, PATH holding {', '.join(expected)}"
    return Finding(what, Outcome.MISSING, problem, hint, required)


def machine_findings() -> Iterator[Finding]:
    """Cores, memory, free space, folders that must be writable, Slurm, and the revision of the clone."""
    import psutil

    # A container or a Slurm job may use only some of the cores; Linux alone says how many.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else psutil.cpu_count()
    yield Finding("CPU", Outcome.OK, f"{cores} cores")
    memory = psutil.virtual_memory()
    amounts = f"{memory.total / 2**30:.1f} GiB, {memory.available / 2**30:.1f} available"
    yield Finding("memory", Outcome.OK, amounts)
    free = shutil.disk_usage(REPOSITORY).free / 1e9
    if free >= LEAST_FREE_GB:
        yield Finding("disk", Outcome.OK, f"{free:.0f} GB free at the repository")
    else:
        hint = f"checkpoints of a large study take more than {LEAST_FREE_GB} GB; link work/ to another disk"
        yield Finding("disk", Outcome.NOTE, f"{free:.0f} GB free at the repository", hint)
    yield from _user_folders()
    yield slurm_finding()
    yield revision_finding()


def shared_memory(scale: "Scale") -> int:
    """Bytes in which processes pass on images: those of all batches that may be ready in one training."""
    batch, (long, short) = scale.training.batch_size or _BATCH, scale.input.size or _SIDES
    ready = _PREFETCHED * scale.resources.workers
    return ready * batch * long * short * 3  # a byte for each colour of a pixel


def _shared_memory() -> Iterator[Finding]:
    """Whether processes that load images can pass them on, at the scales that have such processes."""
    from tood.study.scales import load_scale, scale_names

    if not SHARED_MEMORY.is_dir():
        return
    free = shutil.disk_usage(SHARED_MEMORY).free
    needed = {name: shared_memory(load_scale(name)) for name in scale_names()}
    amounts = ", ".join(f"{name} needs {size / 2**20:.0f} MiB" for name, size in needed.items() if size)
    detail = f"{free / 2**20:.0f} MiB free in {SHARED_MEMORY}" + (f"; {amounts}" if amounts else "")
    enough = free >= max(needed.values(), default=0)
    hint = (
        "" if enough else "enlarge it (docker run --shm-size=8g), or set workers: 0 in the scale's resources"
    )
    yield Finding("shared memory", Outcome.OK if enough else Outcome.NOTE, detail, hint)


def _user_folders() -> Iterator[Finding]:
    """Whether Snakemake and matplotlib can write where they do, below the home folder unless told otherwise.

    In a container with a user of its own that folder is often absent or not writable. Without its cache
    Snakemake ends before it reads a rule; matplotlib makes its list of fonts anew in each job.
    """
    for what, variable, default, required in (
        ("cache", "XDG_CACHE_HOME", "~/.cache", True),
        ("matplotlib", "MPLCONFIGDIR", "~/.config/matplotlib", False),
    ):
        folder = os.environ.get(variable) or os.path.expanduser(default)
        problem = writable_problem(Path(folder))
        if problem is None and folder.startswith("~"):
            problem = "this user has no home folder"
        if problem is None:
            yield Finding(what, Outcome.OK, folder)
        else:
            state = Outcome.MISSING if required else Outcome.NOTE
            hint = f"name a folder that is: export {variable}=/tmp/{what}-$(id -u)"
            yield Finding(what, state, problem, hint, required)


def slurm_finding() -> Finding:
    """Whether Slurm's commands are here, and what its configuration lacks."""
    present = [command for command in SLURM_COMMANDS if shutil.which(command)]
    absent = [command for command in SLURM_COMMANDS if command not in present]
    named = ((present, "found"), (absent, "not found"))
    detail = "; ".join(f"{', '.join(commands)} {state}" for commands, state in named if commands)
    if {"sbatch", "squeue"} <= set(present):
        problems = "; ".join(slurm_problems())
        return Finding("Slurm", Outcome.NOTE if problems else Outcome.OK, detail, problems)
    return Finding("Slurm", Outcome.NOTE, detail, "only `--profile slurm` needs it")


def revision_finding() -> Finding:
    """The git commit that provenance will name, or why it is unknown."""
    try:
        from tood.ledger.provenance import revision  # needs pydantic
    except ImportError as error:
        return Finding("revision", Outcome.NOTE, f"unknown: {error}")
    known = revision()
    if "unknown" in known:
        return Finding("revision", Outcome.NOTE, f"unknown: {known['unknown']}")
    if known["dirty"]:
        return Finding("revision", Outcome.NOTE, f"{known['commit'][:12]}, and tracked files differ from it")
    return Finding("revision", Outcome.OK, known["commit"][:12])
