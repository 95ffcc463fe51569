"""Python files as they are written, without running them: what one names, what a configuration holds."""

import ast
import functools
import operator
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

OWN = "tood."  # begins every name of a module or of a registered class of the package
_OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


class SourceFile:
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
            elif isinstance(node, ast.Assign):
                match node.targets:
                    case [ast.Name(id="_base_")]:
                        bases = ast.literal_eval(node.value)
                        self.bases += [bases] if isinstance(bases, str) else bases
        self.own_words = {word for word in self.words if word.startswith(OWN)}


State = tuple[int, int]  # of a file: when it was last changed, in ns, and its size in bytes


def read_source(path: Path, state: State | None = None) -> SourceFile:
    """What a file names; it is parsed once for each state that it has.

    Args:
        state: its state, where that is known.
    """
    return unless_changed(SourceFile, path, state)


def unless_changed(function: Callable[[str], T], path: Path, state: State | None = None) -> T:
    """What a function makes of a file's text; many runs read the same files. Arguments as `read_source`."""
    return _of_text(function, path, state or _state(path.stat()))


@functools.cache
def _of_text(function: Callable[[str], Any], path: Path, state: State) -> Any:
    return function(path.read_text(encoding="utf-8"))


def python_files(folder: str) -> tuple[tuple[str, State], ...]:
    """Every Python file below a folder, with its state; as text, for plans ask for it a hundred times."""
    files: list[tuple[str, State]] = []
    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False):
            files += python_files(entry.path)
        elif entry.name.endswith(".py"):
            files.append((entry.path, _state(entry.stat())))
    return tuple(files)


def _state(status: os.stat_result) -> State:
    return status.st_mtime_ns, status.st_size


def config_files(config: Path) -> list[Path]:
    """A configuration and those it builds on by `_base_`, all the way."""
    files = [config]
    for base in read_source(config).bases:
        files += config_files(config.parent / base)
    return files


def config_words(config: Path) -> set[str]:
    """Every string that is left in a configuration when its own settings have replaced those of its bases.

    Where one of its files holds anything but assignments of literals: every string of every file.
    """
    try:
        return strings_of(config_settings(config))
    except ValueError:
        return {word for path in config_files(config) for word in read_source(path).words}


def config_settings(config: Path) -> dict[str, Any]:
    """A configuration merged with its bases, as mmengine does it.

    Raises:
        ValueError: it holds anything but assignments of literals.
    """
    source = read_source(config)
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
    """The value of a literal, `dict(...)` and arithmetic such as `1 / 3` among them.

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
    elif isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_literal(node.left), _literal(node.right))
    return ast.literal_eval(node)


def _literals(tree: ast.Module) -> dict[str, Any] | None:
    """What a module assigns, without `_base_`; None if it does anything else."""
    values: dict[str, Any] = {}
    for statement in tree.body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                try:
                    values[name] = _literal(value)
                except ValueError:
                    return None
            case ast.Expr(value=ast.Constant()):
                pass  # its docstring
            case _:
                return None
    return {name: value for name, value in values.items() if name != "_base_"}


def strings_of(value: Any) -> set[str]:
    """Every string among the values of a JSON-able value."""
    if isinstance(value, str):
        return {value}
    entries = (
        value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    )
    return {text for entry in entries for text in strings_of(entry)}
