"""Which code decides a result, and a digest of its meaning; found without running any of it.

A training is decided by the modules of `engine` and `data` that train, by its configuration, and by the
modules of `models` that the configuration names, with what these import. So a new method, an edit of another
one, or of how data are drawn or checked, leaves its digest as it is.
"""

import ast
import functools
import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from tood.study.paths import ALIGNMENT, AP, BEST_ANCHORS, CONFIGS, PACKAGE

T = TypeVar("T")

# Each training depends on what this module imports from these rooms.
_TRAINED_BY = "tood.engine.job"
TRAINING_ROOMS = ("engine", "data")
# A measurement on a trained run depends on what its module imports from these rooms; `training_code` covers
# the rest.
MEASURING_ROOMS = ("evaluation", "analysis")
_MEASURED_BY = {
    AP: ["tood.evaluation.evaluate"],
    ALIGNMENT: ["tood.evaluation.evaluate", "tood.analysis.table6"],
    BEST_ANCHORS: ["tood.evaluation.evaluate", "tood.analysis.best_anchors"],
}


def training_files(config: str, options: Mapping[str, Any]) -> list[Path]:
    """Every file that decides a training.

    Args:
        config: name of the run's file under `experiments/configs`.
        options: the run's deviations from it.
    """
    words = _config_words(CONFIGS / config) | _strings(options)
    training = import_closure([_TRAINED_BY], TRAINING_ROOMS)
    words |= {word for path in training for word in _read(path).words}
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


def config_files(config: Path) -> list[Path]:
    """A configuration and those it builds on by `_base_`, all the way."""
    files = [config]
    for base in _read(config).bases:
        files += config_files(config.parent / base)
    return files


def import_closure(names: Iterable[str], rooms: Collection[str]) -> list[Path]:
    """The files of the package behind these names, and all that they import or name in turn.

    Args:
        names: of modules, of classes in the registries (`tood.TOODHead`), or any other words, which are
            passed over.
        rooms: only files of these count.

    Returns:
        Sorted. The `__init__` of a package does not count: it holds imports alone.
    """
    registered = _registered()
    found: set[Path] = set()
    seen: set[str] = set()
    waiting = {name for name in names if name.startswith(_OWN)}
    while waiting:
        seen.add(word := waiting.pop())
        path = registered.get(word) or _module_file(word)
        if path is None or path in found or path.relative_to(PACKAGE).parts[0] not in rooms:
            continue
        found.add(path)
        waiting |= _read(path).own_words - seen
    return sorted(found)


def code_digest(paths: Iterable[Path]) -> str:
    """Twelve hexadecimal digits that change with the meaning of the Python files, not with their prose.

    The same under every version of Python that parses the files.
    """
    hashed = hashlib.sha256()
    for path in paths:
        hashed.update(path.name.encode() + _unless_changed(_meaning, path))
    return hashed.hexdigest()[:12]


_OWN = "tood."  # begins every name of a module or of a registered class of the package
_ARITHMETIC = (ast.BinOp, ast.UnaryOp, ast.operator, ast.unaryop, ast.Constant)


class _Source:
    """What one Python file names.

    Args:
        source: its text.
    """

    def __init__(self, source: str) -> None:
        tree = ast.parse(source)
        self.words: set[str] = set()  # modules that it may import, and every string in it
        self.registered: list[str] = []  # classes that it puts into a registry
        self.bases: list[str] = []  # `_base_` of a configuration
        self.settings = _literals(tree)  # of a configuration that is made of literals
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                self.words |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                # A name may be a module itself.
                self.words |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                self.words.add(node.value)
            elif isinstance(node, ast.ClassDef) and any(
                "register_module" in ast.unparse(decorator) for decorator in node.decorator_list
            ):
                self.registered.append(node.name)
            elif isinstance(node, ast.Assign) and [ast.unparse(t) for t in node.targets] == ["_base_"]:
                bases = ast.literal_eval(node.value)
                self.bases += [bases] if isinstance(bases, str) else bases
        self.own_words = {word for word in self.words if word.startswith(_OWN)}


def _read(path: Path) -> _Source:
    return _unless_changed(_Source, path)


def _unless_changed(function: Callable[[str], T], path: Path) -> T:
    """What a function makes of a file's text; many runs read the same files."""
    state = path.stat()
    return _of_text(function, path, (state.st_mtime_ns, state.st_size))


@functools.cache
def _of_text(function: Callable[[str], Any], path: Path, state: tuple[int, int]) -> Any:
    return function(path.read_text(encoding="utf-8"))


def _config_words(config: Path) -> set[str]:
    """Every string that is left in a configuration when its own settings have replaced those of its bases.

    Where one of its files holds anything but assignments of literals: every string of every file.
    """
    try:
        return _strings(config_settings(config))
    except ValueError:
        return {word for path in config_files(config) for word in _read(path).words}


def config_settings(config: Path) -> dict[str, Any]:
    """A configuration merged with its bases, as mmengine does it.

    Raises:
        ValueError: it holds anything but assignments of literals.
    """
    source = _read(config)
    if source.settings is None:
        raise ValueError(f"{config}: not only literals")
    layers = [*(config_settings(config.parent / base) for base in source.bases), source.settings]
    return functools.reduce(_merged, layers, {})


def _merged(base: Any, change: Any) -> Any:
    if not isinstance(change, dict) or change.get("_delete_"):
        return change
    if not isinstance(base, dict):
        return [base, change]  # an entry of a list, say: nothing of either may be lost
    return base | {key: _merged(base[key], value) if key in base else value for key, value in change.items()}


def _literal(node: ast.expr) -> Any:
    """The value of a literal, `dict(...)` among them; None for arithmetic.

    Raises:
        ValueError: any other expression.
    """
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "dict" and not node.args:
        named = {word.arg: _literal(word.value) for word in node.keywords}
        if None not in named:  # `**others`
            return named
    elif isinstance(node, ast.Dict) and None not in node.keys:
        keys = [ast.literal_eval(key) for key in node.keys if key is not None]
        return dict(zip(keys, map(_literal, node.values), strict=True))
    elif isinstance(node, ast.List | ast.Tuple):
        return [_literal(entry) for entry in node.elts]
    elif isinstance(node, ast.Constant):
        return node.value
    elif all(isinstance(part, _ARITHMETIC) for part in ast.walk(node)):
        return None  # such as 1 / 3
    return ast.literal_eval(node)


def _literals(tree: ast.Module) -> dict[str, Any] | None:
    """What a module assigns, without `_base_`; None if it does anything else."""
    found: dict[str, Any] = {}
    for statement in tree.body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                try:
                    found[name] = _literal(value)
                except ValueError:
                    return None
            case ast.Expr(value=ast.Constant()):
                pass  # its docstring
            case _:
                return None
    return {name: value for name, value in found.items() if name != "_base_"}


def _registered() -> dict[str, Path]:
    """The file of each class that configurations can name, as `tood.NAME`."""
    return {
        f"tood.{name}": path for path in (PACKAGE / "models").rglob("*.py") for name in _read(path).registered
    }


def _module_file(name: str) -> Path | None:
    """The file of a module such as `tood.models.tood.losses`; None for a package or anything else."""
    first, *steps = name.split(".")
    if first != "tood" or not steps or not all(step.isidentifier() for step in steps):
        return None
    path = PACKAGE.joinpath(*steps).with_suffix(".py")
    return path if path.is_file() else None


def _strings(value: Any) -> set[str]:
    """Every string among the values of a JSON-able value."""
    if isinstance(value, str):
        return {value}
    entries = (
        value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    )
    return {text for entry in entries for text in _strings(entry)}


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
