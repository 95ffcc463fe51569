"""What is missing is found and named with a hint; what is there is left alone."""

import errno
import importlib.metadata
import io
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import SimpleNamespace

import pytest
import rich.console
from snakemake_executor_plugin_slurm import job_status_query

from tood.commands import checks, compute_checks, findings
from tood.commands.checks import environment_problem, examine, writable_problem
from tood.commands.compute_checks import torch_and_gpus
from tood.commands.findings import Finding, lacks_required
from tood.study.declarations import ExperimentError

REPOSITORY = Path(__file__).parents[2]
COCO_LAYOUT = (
    "annotations/instances_train2017.json",
    "annotations/instances_val2017.json",
    "train2017",
    "val2017",
)


def pin(package: str) -> str:
    dependencies = (REPOSITORY / "pyproject.toml").read_text()
    return dependencies.split(f'"{package}==')[1].split('"')[0]


@pytest.fixture
def install(monkeypatch):
    """Make a package look installed in another version, or not at all (None)."""
    real = importlib.metadata.version

    def pretend(name: str, version: str | None):
        def fake(asked):
            if asked != name:
                return real(asked)
            if version is None:
                raise importlib.metadata.PackageNotFoundError(asked)
            return version

        monkeypatch.setattr(importlib.metadata, "version", fake)

    return pretend


def named(results: Iterable[Finding], what: str) -> Finding:
    (found,) = [finding for finding in results if finding.what == what]
    return found


def test_this_environment_is_fit_and_found_so_without_heavy_imports():
    program = """if True:
        import sys
        from tood.commands.checks import environment_problem
        assert environment_problem() is None, environment_problem()
        print({"torch", "torchvision", "mmcv", "mmengine", "pydantic", "rich"} & set(sys.modules))
    """
    result = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True)
    assert (result.stdout.strip(), result.stderr) == ("set()", "")


@pytest.mark.parametrize("package", ["torch", "onedl-mmcv", "onedl-mmdetection", "pycocotools"])
def test_missing_package(install, package):
    install(package, None)
    problem = environment_problem()
    assert f"{package}: not installed, =={pin(package)} is needed" in problem
    assert problem.endswith("`make env` builds it")


def test_wrong_version(install):
    install("torch", "2.10.0")
    assert f"torch: 2.10.0 is installed, =={pin('torch')} is needed" in environment_problem()


def test_version_below_a_bound(install):
    install("numpy", "1.26.0")
    assert "numpy: 1.26.0 is installed, >=" in environment_problem()


def test_other_builds_of_the_pinned_version_fit(install):
    install("torch", f"{pin('torch')}+cpu")
    assert environment_problem() is None


@pytest.mark.parametrize("version", ["3.10.14", "3.13.0"])
def test_unsupported_python(monkeypatch, version):
    monkeypatch.setattr(platform, "python_version", lambda: version)
    assert f"Python: {version} is installed, <3.13,>=3.11 is needed" in environment_problem()


def test_one_message_names_every_problem_and_each_mend_once(install, monkeypatch):
    install("torch", None)
    monkeypatch.setattr(platform, "python_version", lambda: "3.13.0")
    problem = environment_problem()
    assert all(part in problem for part in ("Python: 3.13.0", "torch: not"))
    assert problem.count("`make env`") == 1


def test_writable_folder_is_made_and_left_empty(tmp_path):
    folder = tmp_path / "a" / "b"
    assert writable_problem(folder) is None
    assert writable_problem(folder) is None
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("below", ["", "below", "below/it"])
def test_file_in_the_way(tmp_path, below):
    (tmp_path / "results").write_text("a file")
    file, folder = tmp_path / "results", tmp_path / "results" / below
    assert writable_problem(folder) == (
        f"{folder}: cannot be made, as {file} is not a folder; rename or remove {file}"
    )
    assert (tmp_path / "results").read_text() == "a file"


def test_dangling_link(tmp_path):
    (tmp_path / "results").symlink_to(tmp_path / "gone")
    assert f"{tmp_path / 'results'} is not a folder" in writable_problem(tmp_path / "results")


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc, where nobody can make a folder")
def test_unwritable_place():
    problem = writable_problem(Path("/proc/nonexistent"))
    assert problem.startswith("/proc/nonexistent: nothing can be written there (")
    assert "make it writable" in problem


def test_read_only_folder(tmp_path):
    program = f"""if True:
        import os
        from pathlib import Path
        from tood.commands.checks import writable_problem
        if os.geteuid() == 0:  # root may write whatever the mode
            os.setuid(65534)
        print(writable_problem(Path({str(tmp_path)!r})))
    """
    tmp_path.chmod(0o500)
    result = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True)
    assert result.stderr == ""
    assert result.stdout.startswith(f"{tmp_path}: nothing can be written there (Permission denied); make it")


def test_full_disk(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert writable_problem(tmp_path) == (
        f"{tmp_path}: nothing can be written there (No space left on device); free some space there"
    )
    assert list(tmp_path.iterdir()) == []


def test_examination_of_this_machine():
    results = examine()
    assert not lacks_required(results)
    sections = [finding.section for finding in results]
    assert list(dict.fromkeys(sections)) == ["environment", "data", "compute", "machine"]
    assert sections == sorted(sections, key=["environment", "data", "compute", "machine"].index)
    assert named(results, "mmcv operators").state == "ok"
    assert {"CPU", "memory", "disk", "Slurm", "revision"} <= {finding.what for finding in results}
    assert all(finding.hint for finding in results if finding.state == "missing")


def test_broken_libraries_are_findings_not_tracebacks():
    program = """if True:
        import sys
        for name in ("torch", "pydantic"):
            sys.modules[name] = None  # importing it raises ImportError
        from tood.cli import main
        sys.exit(main(["doctor", "--json"]))
    """
    result = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (1, "")
    broken = [finding for finding in json.loads(result.stdout) if finding["state"] == "missing"]
    assert [finding["section"] for finding in broken] == ["data", "compute", "compute", "machine"]
    assert all("pydantic" in broken[i]["detail"] for i in (0, -1))
    assert all(finding["required"] and "`make env`" in finding["hint"] for finding in broken)


def test_operators_compiled_for_another_torch(tmp_path):
    """They keep mmdet from being imported, so the finding names them and the way out."""
    program = """if True:
        import mmcv, sys
        mmcv.__path__.insert(0, sys.argv[1])
        from tood.commands.compute_checks import mmcv_operators
        (finding,) = mmcv_operators()
        print(finding.state, finding.required, finding.detail, finding.hint)
    """
    (tmp_path / f"_ext{EXTENSION_SUFFIXES[0]}").write_bytes(b"no library")
    call = [sys.executable, "-c", program, tmp_path]
    result = subprocess.run(call, cwd=REPOSITORY, capture_output=True, text=True)
    assert result.stdout.startswith("missing True cannot be loaded: "), result.stderr
    assert str(tmp_path) in result.stdout
    assert "remove that file, as none is needed" in result.stdout


@pytest.fixture
def repository(monkeypatch, tmp_path):
    monkeypatch.setattr(checks, "REPOSITORY", tmp_path)
    return tmp_path


def test_generated_data(repository):
    before = named(checks.data_findings(None, "smoke"), "data of smoke")
    assert (before.state, "first run" in before.detail) == ("note", True)
    folder = repository / "work" / "data" / "smoke"
    folder.mkdir(parents=True)
    (folder / "drawing.json").touch()
    assert named(checks.data_findings(None, "smoke"), "data of smoke").state == "ok"


def test_coco_is_required_only_where_it_was_asked_for(repository):
    unasked = named(checks.data_findings(None, None), "data of paper")
    assert (unasked.state, unasked.required) == ("missing", False)
    asked = named(checks.data_findings(None, "paper"), "data of paper")
    assert asked == replace(unasked, required=True)
    assert "--config scale=paper data_root=PATH" in asked.hint
    assert all(name in asked.hint for name in COCO_LAYOUT)


@pytest.mark.parametrize("scale", [None, "paper", "mini"])
def test_a_folder_of_ones_own(repository, monkeypatch, scale):
    monkeypatch.chdir(repository)  # a relative path counts from here
    for name in COCO_LAYOUT[:3]:
        Path("mine", name).mkdir(parents=True)
    what = f"data of {scale or 'paper'}"
    finding = named(checks.data_findings(Path("mine"), scale), what)
    assert (finding.state, finding.required, finding.detail) == ("missing", True, "mine has no val2017")
    Path("mine", "val2017").mkdir()
    assert named(checks.data_findings(Path("mine"), scale), what).state == "ok"


def test_unusable_options():
    with pytest.raises(ExperimentError, match="did you mean paper"):
        examine(scale_name="papr")


def test_weights(repository):
    absent = named(checks.data_findings(None, "paper"), "weights for paper")
    assert (absent.state, "by hand" in absent.hint) == ("note", True)
    (repository / "weights").mkdir()
    (repository / "weights" / "resnet50.pth").touch()
    assert named(checks.data_findings(None, "paper"), "weights for paper").state == "ok"
    assert len(list(checks.data_findings(None, "smoke"))) == 1


@pytest.fixture
def gpu(monkeypatch):
    """A GPU whose nms runs on the CPU in truth; torch has code for it."""
    import torch

    properties = SimpleNamespace(name="Toy 1", total_memory=8 * 2**30)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: properties.name)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_80"])
    overlapping = compute_checks._overlapping
    monkeypatch.setattr(compute_checks, "_overlapping", lambda torch, device="cpu": overlapping(torch))


def test_gpu(gpu):
    finding = named(torch_and_gpus(), "GPU 0")
    assert (finding.state, finding.detail) == ("ok", "Toy 1, 8 GiB; torchvision's nms works on it")


def test_gpu_on_which_kernels_fail(gpu, monkeypatch):
    import torchvision

    def fail(*arguments):
        raise RuntimeError("CUDA error: out of luck\nmore lines")

    monkeypatch.setattr(torchvision.ops, "nms", fail)
    finding = named(torch_and_gpus(), "GPU 0")
    assert (finding.state, finding.required) == ("missing", True)
    assert finding.detail.endswith("fails on it: CUDA error: out of luck")
    assert "--config device=cpu" in finding.hint


def test_gpu_too_old_for_this_torch(gpu, monkeypatch):
    """Another driver would not help; the study does without it, so nothing required is missing."""
    import torch

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (7, 0))
    finding = named(torch_and_gpus(), "GPU 0")
    assert (finding.state, finding.required) == ("missing", False)
    assert "compute capability 7.0" in finding.detail
    assert finding.detail.endswith("is compiled for sm_75 sm_80")
    assert finding.hint.startswith("`make TORCH=cu126` installs")


def test_no_gpu(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    finding = named(torch_and_gpus(), "GPU")
    assert finding.state == "note"
    assert "paper needs a GPU" in finding.detail
    assert "a driver for CUDA 13.0 or later, from 580.65 on" in finding.hint
    assert "`make TORCH=cu126`" in finding.hint


def test_little_space_is_noted(monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=3e9))
    disk = named(checks.machine_findings(), "disk")
    assert (disk.state, disk.detail) == ("note", "3 GB free at the repository")


@pytest.fixture
def slurm(monkeypatch):
    """Make a Slurm look installed, with these commands and with this MinJobAge in seconds."""

    def pretend(commands: tuple[str, ...], age: int | None) -> None:
        monkeypatch.setattr(shutil, "which", lambda name: name if name in commands else None)
        monkeypatch.setattr(job_status_query, "get_min_job_age", lambda: age)

    return pretend


@pytest.mark.parametrize(
    ("commands", "state", "detail"),
    [
        ((), "note", "sbatch, squeue, sacct not found"),
        (("sbatch", "squeue"), "note", "sbatch, squeue found; sacct not found"),
        (("sbatch", "squeue", "sacct"), "ok", "sbatch, squeue, sacct found"),
    ],
)
def test_slurm(slurm, commands, state, detail):
    slurm(commands, 300)
    assert (checks.slurm_finding().state, checks.slurm_finding().detail) == (state, detail)


def test_slurm_without_sacct_needs_an_account(slurm, repository):
    profile = repository / checks.SLURM_PROFILE
    profile.parent.mkdir(parents=True)
    shipped = (REPOSITORY / checks.SLURM_PROFILE).read_text()
    profile.write_text(shipped)
    slurm(("sbatch", "squeue"), 300)
    (problem,) = checks.slurm_problems()
    assert "set slurm_account in profiles/slurm/profile.yaml" in problem
    # As a site may have it: uncommented, as a list, and without anything
    profile.write_text(shipped.replace("# slurm_account: my_account", "slurm_account: mine"))
    assert checks.slurm_problems() == []
    profile.write_text("default-resources: [slurm_account=mine]")
    assert checks.slurm_problems() == []
    profile.write_text("default-resources:\n  # slurm_account: mine")
    assert checks.slurm_problems() == [problem]


@pytest.mark.parametrize(("age", "said"), [(None, "does not answer"), (60, "forgets ended jobs after 60 s")])
def test_slurm_that_would_be_waited_for_in_vain(slurm, age, said):
    slurm(checks.SLURM_COMMANDS, age)
    (problem,) = checks.slurm_problems()
    assert said in problem
    assert checks.slurm_finding().hint == problem


def test_no_git_revision(repository, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(repository.parent))
    monkeypatch.setattr("tood.ledger.provenance.REPOSITORY", repository)
    assert checks.revision_finding().detail.startswith("unknown: ")
    monkeypatch.setenv("PATH", "")
    assert checks.revision_finding().detail == "unknown: git is not installed"


FINDINGS = [
    Finding("a", "ok", "[there]", section="data"),
    Finding("long name", "missing", "gone", "make it", section="data"),
    Finding("c", "note", "slow", section="machine"),
]


def test_lines_are_aligned(capsys):
    findings.show(FINDINGS)
    assert capsys.readouterr().out.splitlines() == [
        "data     a          ok       [there]",
        "data     long name  missing  gone; make it",
        "machine  c          note     slow",
    ]


def test_table_in_a_terminal(monkeypatch):
    console = rich.console.Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None)
    monkeypatch.setattr(rich.console, "Console", lambda: console)
    findings.show(FINDINGS)
    text = console.file.getvalue()
    assert all(part in text for part in ("[there]", "long name", "make it", "┃"))
    assert text.count(" data ") == 1


@pytest.mark.parametrize(("free", "state"), [(64 * 2**20, "note"), (8 * 2**30, "ok")])
def test_shared_memory_is_compared_with_what_loading_processes_need(monkeypatch, tmp_path, free, state):
    """Two batches of 16 images for each of four processes at the scale paper; docker gives 64 MB."""
    monkeypatch.setattr(checks, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    (finding,) = checks._shared_memory()
    assert finding.state == state
    assert "paper needs 391 MiB" in finding.detail
    assert ("--shm-size" in finding.hint) == (state == "note")


# The user's folders


def test_a_home_that_cannot_be_written(tmp_path):
    """As of a user that only the container knows."""
    given = {k: v for k, v in os.environ.items() if k not in ("XDG_CACHE_HOME", "MPLCONFIGDIR")}
    call = [sys.executable, "-m", "tood.cli", "doctor", "--json"]

    def found(**environment: str) -> dict[str, dict]:
        result = subprocess.run(
            call, cwd=REPOSITORY, capture_output=True, text=True, env=given | {"HOME": "/sys"} | environment
        )
        assert "Traceback" not in result.stderr
        return {one["what"]: one for one in json.loads(result.stdout)}

    lacking = found()
    assert (lacking["cache"]["state"], lacking["cache"]["required"]) == ("missing", True)
    assert "export XDG_CACHE_HOME=" in lacking["cache"]["hint"]
    assert (lacking["matplotlib"]["state"], lacking["matplotlib"]["required"]) == ("note", False)
    assert "export MPLCONFIGDIR=" in lacking["matplotlib"]["hint"]
    named = found(XDG_CACHE_HOME=str(tmp_path / "cache"), MPLCONFIGDIR=str(tmp_path / "matplotlib"))
    assert {named["cache"]["state"], named["matplotlib"]["state"]} == {"ok"}
