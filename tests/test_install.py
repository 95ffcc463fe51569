"""What `make env` installs: nothing without a hash, and the code of the folder that the clone is in."""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

REPOSITORY = Path(__file__).parents[1]
MAKEFILE = (REPOSITORY / "Makefile").read_text()
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
PINS = (REPOSITORY / "requirements.txt").read_text()
ENTRIES = re.findall(r"^([a-z0-9._-]+)==(.*(?:\n    --hash.*)*)", PINS, re.MULTILINE)


def test_every_pin_has_a_hash():
    assert [name for name, entry in ENTRIES if "--hash=sha256:" not in entry] == []
    lines = [line for line in PINS.splitlines() if line and not line.startswith((" ", "#"))]
    assert len(ENTRIES) == len(lines) > 100


def test_nothing_is_installed_without_a_hash():
    """Apart from the package itself, whose build needs nothing that is not installed with one."""
    recipe = MAKEFILE.replace("\\\n", " ").split("$(INSTALLED): ")[1].split("\n\n")[0]
    calls = [line for line in recipe.splitlines() if "pip install" in line or "$(INSTALL)" in line]
    assert len(calls) == 3
    for call in calls:
        itself = {"--editable", "--no-deps", "--no-build-isolation"} <= set(call.split())
        assert itself or "--require-hashes" in call, call
    (all_else,) = (call for call in calls if "--compile-bytecode" in call)
    assert "--require-build-hashes" in all_else
    assert "--build-constraints requirements.txt" in all_else


def test_what_builds_packages_is_pinned():
    needed = {Requirement(one).name for one in PROJECT["build-system"]["requires"]}
    declared = {Requirement(one).name for one in PROJECT["dependency-groups"]["build"]}
    assert needed <= declared
    # Of the packages that come as source, and what hatchling itself needs
    of_sources = {"setuptools", "wheel", "packaging", "pathspec", "pluggy", "trove-classifiers"}
    assert declared | of_sources <= {name for name, _ in ENTRIES}


@pytest.fixture
def clone(tmp_path) -> Path:
    """What `make env` reads, in a folder whose name has spaces, with an environment that it made there."""
    path = tmp_path / "my clone"
    (path / ".venv" / "bin").mkdir(parents=True)
    for name in ("requirements.txt", "pyproject.toml", "Makefile"):
        shutil.copy(REPOSITORY / name, path)
    (path / ".venv" / ".tood-installed").write_text(f"{path}\n")
    return path


def make(folder: Path, *words: str, **environment: str) -> str:
    call = ["make", "--dry-run", *words]
    given = {k: v for k, v in os.environ.items() if k not in ("XDG_CACHE_HOME", "MPLCONFIGDIR", "MAKEFLAGS")}
    outcome = subprocess.run(call, cwd=folder, env=given | environment, capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stderr
    return outcome.stdout


def test_an_environment_of_this_folder_stays(clone):
    assert "pip install" not in make(clone, "env")


def test_a_moved_clone_is_installed_anew(clone):
    moved = clone.rename(clone.with_name("moved"))
    assert "--editable" in make(moved, "env")


def test_a_home_that_cannot_be_written_is_left_alone(clone):
    for home, places in (("/proc/nonexistent", 2), (str(clone), 0)):
        database = make(clone, "--print-data-base", "env", HOME=home)
        given = dict(re.findall(r"^(XDG_CACHE_HOME|MPLCONFIGDIR) := (.*)$", database, re.MULTILINE))
        assert len(given) == places
        assert all(place.startswith(f"{clone}/") for place in given.values())


# The image


def test_the_image_has_all_that_makes_its_environment(clone):
    """What the Dockerfile copies is all that `make env` and the build of the package read."""
    recipe = (REPOSITORY / "Dockerfile").read_text().replace("\\\n", " ")
    copied = {name for line in re.findall(r"^COPY (.*) \S+$", recipe, re.MULTILINE) for name in line.split()}
    assert copied == {"Makefile", "pyproject.toml", "requirements.txt", PROJECT["project"]["readme"], "tood"}
    ignored = (REPOSITORY / ".dockerignore").read_text().splitlines()
    assert {line[1:] for line in ignored if line.startswith("!")} == copied
    (version,) = re.findall(r"^FROM python:(3\.\d+)-", recipe, re.MULTILINE)
    assert SpecifierSet(PROJECT["project"]["requires-python"]).contains(f"{version}.1")
    (call,) = re.findall(r"RUN (make .*)", recipe)
    shutil.rmtree(clone / ".venv")
    said = make(clone, *call.split()[1:])
    assert f"python{version} -m venv" in said
    assert "--require-hashes" in said
    assert "PYTHONPATH=." in recipe  # the code of the clone, and not the copy


# Another build of torch


def test_another_build_of_torch_is_pinned_with_hashes_and_remembered(clone):
    """Its index gives the hashes, so they are no part of the repository."""
    installed = clone / ".venv" / ".tood-installed"
    said = make(clone, "env", "TORCH=cu126").replace("\\\n", " ")
    (pinned,) = re.findall(r"uv\" pip compile (.*)", said)
    assert "--generate-hashes" in pinned
    assert "--torch-backend cu126" in pinned
    assert pinned.rstrip("; }").endswith('--output-file ".venv/requirements.txt"')
    (call,) = re.findall(r"pip install (.*--compile-bytecode.*)", said)
    assert {"--require-hashes", "--require-build-hashes"} <= set(call.split())
    assert call.endswith('-r ".venv/requirements.txt"')
    assert "--torch-backend cu126" in call

    installed.write_text(f"{clone}\ncu126\n")
    assert "pip install" not in make(clone, "env")
    assert "pip install" not in make(clone, "env", "TORCH=cu126")
    moved = clone.rename(clone.with_name("moved"))
    assert "--torch-backend cu126" in make(moved, "env")
    back = make(moved, "env", "TORCH=")
    assert "--compile-bytecode" in back
    assert "torch-backend" not in back


def test_all_but_the_packages_of_cuda_is_as_pinned_with_another_build(clone):
    """The line of the Makefile runs, with an uv that installs nothing."""
    (line,) = re.findall(r"\{ (sed -n '/\^cuda.*?as-pinned.txt\") &&", MAKEFILE.replace("\\\n", " "))
    command = line.replace("$$", "$").replace("$(VENV)", ".venv")
    subprocess.run(["sh", "-c", command], cwd=clone, check=True)
    kept = [Requirement(line) for line in (clone / ".venv" / "as-pinned.txt").read_text().splitlines()]
    cuda = {name for name, _ in ENTRIES if name.startswith(("cuda-", "nvidia-")) or name == "triton"}
    assert len(cuda) > 15
    assert {one.name for one in kept} == {name for name, _ in ENTRIES} - cuda
    assert all(str(one.specifier).startswith("==") for one in kept)
    assert {one.name: str(one.specifier) for one in kept}["torch"] == "==2.11.0"
