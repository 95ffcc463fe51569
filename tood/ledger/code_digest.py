"""Which code decides a result, and a digest of its meaning; found without running any of it.

A training is decided by the modules of `engine` and `data` that train, by its configuration, and by the
modules of `models` that the configuration names, with what these import. So a new method, an edit of another
one, or of how data are drawn or checked, leaves its digest as it is.
"""

import ast
import functools
import hashlib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from tood.study.paths import ALIGNMENT, AP, BEST_ANCHORS, CONFIGS, PACKAGE
from tood.study.source_files import (
    OWN,
    State,
    config_files,
    config_words,
    python_files,
    read_source,
    strings_of,
    unless_changed,
)

# Each training depends on what this module imports from these rooms.
_TRAINED_BY = "tood.engine.job"
TRAINING_ROOMS = ("engine", "data")
# A measurement on a trained run depends on what its module imports from these rooms; `training_code` covers
# the rest.
MEASURING_ROOMS = ("evaluation", "analysis")
_MEASURED_BY = {
    AP: ["tood.evaluation.evaluate"],
    ALIGNMENT: ["tood.evaluation.evaluate", "tood.analysis.table6.columns"],
    BEST_ANCHORS: ["tood.evaluation.evaluate", "tood.analysis.table6.best_anchors"],
}


def training_files(config: str, options: Mapping[str, Any]) -> list[Path]:
    """Every file that decides a training.

    Args:
        config: name of the run's file under `experiments/configs`.
        options: the run's deviations from it.
    """
    words = config_words(CONFIGS / config) | strings_of(options)
    training = import_closure([_TRAINED_BY], TRAINING_ROOMS)
    words |= {word for path in training for word in read_source(path).words}
    models = import_closure(words, ("models",))
    return [*training, *models, *config_files(CONFIGS / config)]


def training_code(config: str, options: Mapping[str, Any]) -> str:
    """Digest of all code that decides a training; arguments as `training_files`."""
    return code_digest(training_files(config, options))


def import_code(config: str, options: Mapping[str, Any]) -> str:
    """Digest of all code that decides what becomes of released weights; arguments as `training_files`."""
    return code_digest(
        [*training_files(config, options), *import_closure(["tood.evaluation.importing"], ["evaluation"])]
    )


def evaluation_code(result: str) -> str:
    """Digest of all code that measures a result on a trained run.

    Args:
        result: the file's name, such as "ap.json".
    """
    return code_digest(import_closure(_MEASURED_BY[result], MEASURING_ROOMS))


def import_closure(names: Iterable[str], rooms: Collection[str]) -> list[Path]:
    """The files of the package behind these names, and all that they import or name in turn.

    Args:
        names: of modules, of classes in the registries (`tood.TOODHead`), or any other words, which are
            passed over.
        rooms: only files of these count.

    Returns:
        Sorted. The `__init__` of a package does not count: it holds imports alone.
    """
    own = frozenset(name for name in names if name.startswith(OWN))
    return list(_closure(own, frozenset(rooms), python_files(str(PACKAGE))))


@functools.cache
def _closure(
    names: frozenset[str], rooms: frozenset[str], package: tuple[tuple[str, State], ...]
) -> tuple[Path, ...]:
    """As `import_closure`, for a package with these files; many runs have the same names."""
    states, registered = _modules(package)
    files: set[Path] = set()
    seen: set[str] = set()
    waiting = set(names)
    while waiting:
        seen.add(word := waiting.pop())
        path = registered.get(word) or _module_file(word, PACKAGE)
        if path not in states or path in files or path.parts[len(PACKAGE.parts)] not in rooms:
            continue
        files.add(path)
        waiting |= read_source(path, states[path]).own_words - seen
    return tuple(sorted(files))


def code_digest(paths: Iterable[Path]) -> str:
    """Twelve hexadecimal digits that change with the meaning of the Python files, not with their prose.

    The same under every version of Python that parses the files.
    """
    hashed = hashlib.sha256()
    for path in paths:
        hashed.update(path.name.encode() + unless_changed(_meaning, path))
    return hashed.hexdigest()[:12]


@functools.cache
def _modules(package: tuple[tuple[str, State], ...]) -> tuple[dict[Path, State], dict[str, Path]]:
    """State of each file, and the file of each class that configurations can name, as `tood.NAME`."""
    states = {Path(path): state for path, state in package}
    models = {path: state for path, state in states.items() if path.is_relative_to(PACKAGE / "models")}
    registered = {
        f"tood.{name}": path for path, state in models.items() for name in read_source(path, state).registered
    }
    return states, registered


@functools.cache
def _module_file(name: str, package: Path) -> Path | None:
    """Where a module such as `tood.models.tood.losses` would be; None for what names no module."""
    steps = name.removeprefix(OWN).split(".")
    return package.joinpath(*steps).with_suffix(".py") if all(map(str.isidentifier, steps)) else None


def _meaning(source: str) -> bytes:
    """Python source without its docstrings, comments, formatting, and annotations of functions."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.returns = None
        if isinstance(node, ast.arg):
            node.annotation = None
        if isinstance(node, ast.JoinedStr):  # Python 3.12 ends some format specifications in ""
            node.values = [part for part in node.values if getattr(part, "value", None) != ""]
    return _canonical(tree).encode()


def _canonical(node: Any) -> str:
    """A syntax tree as text; newer Pythons have more fields, which are empty where nothing new is used."""
    if isinstance(node, ast.AST):
        fields = [
            f"{name}={_canonical(value)}"
            for name, value in ast.iter_fields(node)
            if value not in (None, []) or isinstance(node, ast.Constant)
        ]
        return f"{type(node).__name__}({', '.join(fields)})"
    if isinstance(node, list):
        return f"[{', '.join(map(_canonical, node))}]"
    return repr(node)
