"""The rooms of `tood`: who may import whom, and what the code digests rely on. Read, not imported."""

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tood.study.paths import PACKAGE, REPOSITORY

# From low to high. A room imports only from itself and from those before it.
ROOMS = (
    *("runtime", "models", "data", "study", "ledger", "engine"),
    *("evaluation", "analysis", "report", "commands", "workflow", "cli"),
)
MODEL_ROOMS = ("common", "baselines", "tood")
MOST_LINES = 400
Modules = dict[str, ast.Module]


def modules(package: Path) -> Modules:
    """The syntax tree of every module by its name; a package has the name of its `__init__`."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        found[".".join(parts)] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def imported(name: str, everything: Modules) -> set[str]:
    """The modules of the package that a module may import, whether at load or later."""
    found = set()
    for node in ast.walk(everything[name]):
        if isinstance(node, ast.Import):
            found |= {_module(alias.name, everything) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively; the code digests do not follow that"
            parent = _module(str(node.module), everything)
            # A name may be a module itself.
            found |= {_module(f"{node.module}.{alias.name}", everything) or parent for alias in node.names}
    return {module for module in found if module is not None}


def _module(name: str, everything: Modules) -> str | None:
    """The module behind an imported name; None outside of the package."""
    return next((each for each in (name, f"{name}.__init__") if each in everything), None)


def room(name: str, package: str = "tood") -> str | None:
    """The folder of a package that a module is in; `cli` is a room too. None for anything else."""
    if name == "tood.cli":
        return "cli"
    first, *rest = name.removeprefix(f"{package}.").split(".")
    return first if name.startswith(f"{package}.") and rest else None


def upward(everything: Modules) -> list[str]:
    """Imports of a higher room, of the facade, or of the package's root; and rooms that have no place."""
    found = []
    for name in everything:
        own = room(name)
        if own in ROOMS:
            allowed = ("models",) if own == "models" else ROOMS[: ROOMS.index(own) + 1]
            found += [
                f"{name} -> {other}" for other in imported(name, everything) if room(other) not in allowed
            ]
        elif own is not None:
            found.append(name)
    return found


def upward_in_models(everything: Modules) -> list[str]:
    """Imports of a higher room in `models`, or of all `models`, which the code digests do not follow."""
    found = []
    for name in everything:
        own = room(name, "tood.models")
        if own in MODEL_ROOMS:
            allowed = MODEL_ROOMS[: MODEL_ROOMS.index(own) + 1]
            found += [
                f"{name} -> {other}"
                for other in imported(name, everything)
                if room(other) == "models" and room(other, "tood.models") not in allowed
            ]
    return found


def circles(everything: Modules) -> list[str]:
    """Modules that import themselves by way of others."""
    direct = {name: imported(name, everything) for name in everything}
    found = []
    for name in everything:
        reached, waiting = set(), list(direct[name])
        while waiting:
            other = waiting.pop()
            if other not in reached:
                reached.add(other)
                waiting += direct[other]
        found += [name] if name in reached else []
    return found


def in_the_root(everything: Modules) -> list[str]:
    """What the root lacks, or has too much; and what the facade has beside imports."""
    roots = {name.removeprefix("tood.") for name in everything if name.count(".") == 1}
    found = sorted(roots ^ {"__init__", "__main__", "cli", "heads"})
    facade = everything.get("tood.heads", ast.Module([], []))
    return [*found, *(f"heads: {text}" for text in more_than_imports(facade))]


def more_than_imports(tree: ast.Module) -> list[str]:
    """Statements beside a docstring, imports and `__all__`."""
    return [
        ast.unparse(statement)
        for position, statement in enumerate(tree.body)
        if not isinstance(statement, ast.Import | ast.ImportFrom)
        and not (position == 0 and ast.get_docstring(tree) is not None)
        and not (isinstance(statement, ast.Assign) and ast.unparse(statement.targets) == "__all__")
    ]


def full_packages(everything: Modules) -> list[str]:
    """Packages below the root whose `__init__` lacks a docstring, or has more than imports."""
    found = []
    for name, tree in everything.items():
        if name.endswith(".__init__") and name != "tood.__init__":
            found += [] if ast.get_docstring(tree) else [f"{name}: no docstring"]
            found += [f"{name}: {text}" for text in more_than_imports(tree)]
    return found


def wrongly_registered(everything: Modules) -> list[str]:
    """Classes that are registered twice, under another name, or where the digests do not look."""
    found, names = [], []
    for module, tree in everything.items():
        classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
        decorators = {id(each): node.name for node in classes for each in node.decorator_list}
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or not ast.unparse(node.func).endswith(".register_module"):
                continue
            name = decorators.get(id(node))
            if name is None or node.args or node.keywords or room(module) != "models":
                found.append(f"{module}: {ast.unparse(node)}")
            else:
                names.append(name)
    return [*found, *(name for name, times in Counter(names).items() if times > 1)]


def too_long(package: Path) -> list[str]:
    """Modules of too many lines."""
    return [
        path.name
        for path in package.rglob("*.py")
        if len(path.read_text(encoding="utf-8").splitlines()) > MOST_LINES
    ]


def of_trees(check: Callable[[Modules], list[str]]) -> Callable[[Path], list[str]]:
    return lambda package: check(modules(package))


CHECKS = {
    "upward": of_trees(upward),
    "upward_in_models": of_trees(upward_in_models),
    "circles": of_trees(circles),
    "in_the_root": of_trees(in_the_root),
    "full_packages": of_trees(full_packages),
    "wrongly_registered": of_trees(wrongly_registered),
    "too_long": too_long,
}


@pytest.mark.parametrize("check", CHECKS)
def test_the_package_is_in_order(check):
    assert CHECKS[check](PACKAGE) == []


# A small package in order, and what is planted into it.
IN_ORDER = {
    "__init__.py": "from tood.runtime.files import write\n\nwrite()\n",
    "cli.py": "def main():\n    from tood.engine.trainer import train\n",
    "__main__.py": "from tood.cli import main\nmain()\n",
    "heads.py": '"""Facade."""\nfrom tood.models import *\nfrom tood.models import __all__\n',
    **{
        f"{folder}/__init__.py": '"""A room."""\n'
        for folder in ("runtime", "data", "study", "engine", "evaluation", "analysis")
    },
    "models/__init__.py": '"""A room."""\nfrom tood.models.tood.new import New\n\n__all__ = ["New"]\n',
    **{f"models/{folder}/__init__.py": '"""A room."""\n' for folder in MODEL_ROOMS},
    "runtime/files.py": "def write(): ...\n",
    "models/common/layers.py": "import torch\n",
    "models/baselines/old.py": "from tood.models.common import layers\n",
    "models/tood/new.py": (
        "from tood.models.baselines.old import layers\n@MODELS.register_module()\nclass New: ...\n"
    ),
    "engine/trainer.py": "import tood.models\nfrom tood.runtime import files\n",
}
PLANTED = {
    "a room that is higher": ("upward", {"runtime/files.py": "import tood.study\n"}),
    "the same later, in a function": (
        "upward",
        {"study/plan.py": "def plan():\n    from tood.engine import trainer\n"},
    ),
    "models import another room": ("upward", {"models/common/layers.py": "from tood.runtime import files\n"}),
    "the facade from a room": ("upward", {"engine/trainer.py": "from tood.heads import New\n"}),
    "an unknown room": ("upward", {"engine/trainer.py": "import tood.stray.module\n", "stray/module.py": ""}),
    "baselines import tood": (
        "upward_in_models",
        {"models/baselines/old.py": "from tood.models.tood import new\n"},
    ),
    "common imports baselines": (
        "upward_in_models",
        {"models/common/layers.py": "from tood.models.baselines.old import x\n"},
    ),
    "all of models at once": (
        "upward_in_models",
        {"models/baselines/old.py": "from tood.models import New\n"},
    ),
    "two that import each other": (
        "circles",
        {
            "study/plan.py": "import tood.study.status\n",
            "study/status.py": "def f():\n    from tood.study.plan import x\n",
        },
    ),
    "a stray module in the root": ("in_the_root", {"losses.py": ""}),
    "a facade that does something": ("in_the_root", {"heads.py": "LIMIT = 3\n"}),
    "a package that does something": ("full_packages", {"data/__init__.py": '"""A room."""\nLIMIT = 3\n'}),
    "a package without a docstring": ("full_packages", {"data/__init__.py": ""}),
    "a second docstring": ("full_packages", {"data/__init__.py": '"""A room."""\n"""Text."""\n'}),
    "two classes of one name": (
        "wrongly_registered",
        {"models/baselines/old.py": "@MODELS.register_module()\nclass New: ...\n"},
    ),
    "another name": (
        "wrongly_registered",
        {"models/baselines/old.py": '@MODELS.register_module(name="Old")\nclass Older: ...\n'},
    ),
    "no decorator": (
        "wrongly_registered",
        {"models/baselines/old.py": "class Old: ...\nMODELS.register_module(module=Old)\n"},
    ),
    "outside of models": (
        "wrongly_registered",
        {"data/loading.py": "@DATASETS.register_module()\nclass Set: ...\n"},
    ),
    "a long module": ("too_long", {"data/loading.py": "\n" * (MOST_LINES + 1)}),
}


def write_package(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / "tood" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder / "tood"


@pytest.mark.parametrize("check", CHECKS)
def test_a_package_in_order_passes(tmp_path, check):
    assert CHECKS[check](write_package(tmp_path, IN_ORDER)) == []


@pytest.mark.parametrize("violation", PLANTED)
def test_a_planted_violation_is_found_by_its_check(tmp_path, violation):
    check, files = PLANTED[violation]
    assert CHECKS[check](write_package(tmp_path, IN_ORDER | files))


def test_relative_imports_are_refused(tmp_path):
    package = write_package(tmp_path, IN_ORDER | {"data/loading.py": "from . import other\n"})
    with pytest.raises(AssertionError, match=r"tood\.data\.loading imports relatively"):
        upward(modules(package))


# What loading imports


def load(names: list[str], poison: Path) -> subprocess.CompletedProcess[str]:
    """Import modules in a process in which torch and what builds on it cannot be imported."""
    return subprocess.run(
        [sys.executable, "-c", "".join(f"import {name}\n" for name in names)],
        cwd=REPOSITORY,
        env={"PYTHONPATH": str(poison), "PATH": ""},
        capture_output=True,
        text=True,
    )


def test_study_loads_without_torch_and_its_kin(poison):
    names = [name.removesuffix(".__init__") for name in modules(PACKAGE) if room(name) in ("study", "cli")]
    assert len(names) > 10
    done = load(names, poison)
    assert done.returncode == 0, done.stderr
    assert not (poison / "imported").exists()


def test_what_needs_torch_does_not_load_without_it(poison):
    done = load(["tood.engine.trainer"], poison)
    assert done.returncode != 0
    assert "torch was imported" in done.stderr
    assert (poison / "imported").exists()
