"""What code made a result: a digest that comments, docstrings and formatting do not change."""

import ast
import hashlib
from collections.abc import Iterable
from pathlib import Path

PACKAGE = Path(__file__).parent
# Nothing in these takes part in a training or an evaluation.
_NOT_TRAINING = (
    "analysis",
    "checkpoints.py",
    "cli.py",
    "complexity.py",
    "doctor.py",
    "experiments.py",
    "progress.py",
    "provenance.py",
    "records.py",
    "study.py",
    "tables.py",
)


def training_files() -> list[Path]:
    """The modules of this package that decide what a training computes."""
    return sorted(
        path
        for path in PACKAGE.rglob("*.py")
        if path.relative_to(PACKAGE).parts[0] not in _NOT_TRAINING
        and not path.is_relative_to(PACKAGE / "data")
    )


def config_files(config: Path) -> list[Path]:
    """A configuration and those it builds on by `_base_`, all the way, found without running any of them."""
    files = [config]
    for node in ast.parse(config.read_text()).body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["_base_"]:
            bases = ast.literal_eval(node.value)
            for base in [bases] if isinstance(bases, str) else bases:
                files += config_files(config.parent / base)
    return files


def code_digest(paths: Iterable[Path]) -> str:
    """Twelve hexadecimal digits that change with the meaning of the Python files, not with their prose."""
    digest = hashlib.sha256()
    for path in paths:
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
            if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
                node.body = node.body[1:]
        digest.update(path.name.encode() + ast.dump(tree).encode())
    return digest.hexdigest()[:12]
