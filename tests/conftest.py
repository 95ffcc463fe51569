"""Fixtures shared by the tests."""

import gc
import logging
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers.forks import forked, share

REPOSITORY = Path(__file__).parents[1]
TINY_COCO = REPOSITORY.parent / "shared" / "data" / "tiny_coco"
COMPLEXITY = Path("results/paper/complexity.csv")
WORKFLOW = ("Snakefile", "workflow", "profiles", "experiments", "environment.yml", "pyproject.toml")
# Before torch is there: more threads are slower on models so small, and several workers wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_configure(config: pytest.Config) -> None:
    """Before pytest-xdist starts its workers."""
    gc.disable()  # until all is collected
    if getattr(config.option, "numprocesses", None):
        share()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Calls of the workflow take longest. They come first, so that several workers end together."""
    items.sort(key=lambda item: "workflow" not in item.path.parts)


def pytest_collection_finish() -> None:
    """What was imported stays: searches for garbage, such as mmengine's for each dataset, pass over it."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def _logging_enabled():
    """Commands that silence libraries end with their process, but not those that a test calls."""
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="session")
def photographs(tmp_path_factory) -> Path:
    """The dataset of `helpers.photographs`."""
    from helpers.photographs import write_photographs

    return write_photographs(tmp_path_factory.mktemp("photographs") / "coco")


@pytest.fixture(scope="session")
def tiny_coco() -> Path:
    if not TINY_COCO.is_dir():
        pytest.skip(f"100 real COCO images are expected at {TINY_COCO}; this machine has none")
    return TINY_COCO


@pytest.fixture(scope="session", params=["photographs", "tiny_coco"])
def real_images(request) -> Path:
    """A dataset of photographs in COCO's layout, with COCO's 80 categories; COCO's own too where it is."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def odd(tmp_path_factory) -> Path:
    """The dataset of `helpers.odd_images`."""
    from helpers.odd_images import ODD_IMAGES, write_images

    return write_images(tmp_path_factory.mktemp("odd") / "images", ODD_IMAGES)


@pytest.fixture(scope="session")
def drawn(tmp_path_factory) -> Path:
    """A dataset of drawn images."""
    from tood.data.synthetic import DrawingSpec, generate

    root = tmp_path_factory.mktemp("drawn") / "images"
    generate(root, DrawingSpec(seed=0, train_images=40, val_images=6, image_size=(64, 64)))
    return root


@pytest.fixture(scope="session")
def training_images(drawn):
    """Its training images, as a training of the scale `smoke` gets them."""
    from tood.data.loading import build_dataset
    from tood.data.synthetic import CLASSES
    from tood.study.scales import load_scale

    return build_dataset(drawn, *load_scale("smoke").train, CLASSES, (64, 64), 0.5)


@dataclass(frozen=True)
class Workspace:
    """A folder with the repository's workflow and its own `results` and `work`."""

    path: Path

    def run(self, program: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the environment's, as a fork that has its imports; its stdout holds stderr too."""
        command = [Path(sys.executable).with_name(program), *arguments]
        if program == "python" or "PYTHONPATH" in environment:
            return self._call(command, environment)
        command, address = forked(command)
        return self._call(command, environment | address)

    def run_alone(self, program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        """As `run`, but nothing was imported before, as when a user types it."""
        return self._call([Path(sys.executable).with_name(program), *arguments], {})

    def _call(self, command: list, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
        kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "SNAKEMAKE_PROFILE")}
        return subprocess.run(
            list(map(str, command)),
            cwd=self.path,
            env=kept | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def files(self, folder: str) -> dict[str, bytes]:
        """Content of every file below a folder; of the file itself if it is none."""
        root = self.path / folder
        paths = [root] if root.is_file() else root.rglob("*")
        return {str(path.relative_to(self.path)): path.read_bytes() for path in paths if path.is_file()}

    def copy(self, path: Path) -> "Workspace":
        """The workspace as it is, times of its files and Snakemake's records included, at another path."""
        return Workspace(shutil.copytree(self.path, path, symlinks=True))


@pytest.fixture(scope="session")
def new_workspace(tmp_path_factory):
    """Makes a workspace; `counted` puts the parameters and FLOPs there that the repository keeps.

    They are counted once for all studies, which takes most of a minute.
    """

    def make(counted: bool = False) -> Workspace:
        path = tmp_path_factory.mktemp("workspace")
        for name in WORKFLOW:
            (path / name).symlink_to(REPOSITORY / name)
        if counted:
            (path / COMPLEXITY).parent.mkdir(parents=True)
            shutil.copy(REPOSITORY / COMPLEXITY, path / COMPLEXITY)
        return Workspace(path)

    return make


@pytest.fixture
def workspace(new_workspace) -> Workspace:
    return new_workspace()


@pytest.fixture
def poison(tmp_path) -> Path:
    """A folder for PYTHONPATH with packages that cannot be imported; `imported` there names those tried."""
    folder = tmp_path / "poison"
    for package in ("torch", "torchvision", "mmengine", "mmcv", "mmdet"):
        (folder / package).mkdir(parents=True)
        (folder / package / "__init__.py").write_text(
            f"print({package!r}, file=open({str(folder / 'imported')!r}, 'a'))\n"
            f"raise RuntimeError('{package} was imported')\n"
        )
    return folder


@pytest.fixture
def double():
    """mmdet makes float32 of anchors, distances and IoUs; in float64 only the arithmetic is compared."""
    from helpers.operators import no_rounding

    with no_rounding():
        yield


@pytest.fixture
def torchvision_operators(monkeypatch) -> None:
    """Operators of mmcv that mmdet's own heads call, computed by torchvision.

    They take the place of compiled ones too, where mmcv has them.
    """
    from helpers.operators import operators_of_torchvision

    def replace(*arguments) -> None:
        monkeypatch.setattr(*arguments, raising=False)

    operators_of_torchvision(replace)
