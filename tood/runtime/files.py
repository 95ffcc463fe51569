"""Files that a reader never finds half written, and readers that say which file is damaged."""

import json
import math
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tood.runtime.failures import InputError

if TYPE_CHECKING:
    from pydantic import BaseModel

_LONGEST_STEM = 100  # characters of a temporary name, which file systems limit to 255 bytes
_LONGEST_VALUE = 60  # characters of a wrong value in a message
_RENEW = "delete it and run the workflow again"


class DamagedFile(InputError):
    """A file of a study that does not hold what was written; the message names it and says what to do."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, to write to; it is renamed to `path` when the block ends.

    After the block, content and name are on the disk. After an exception in it, the temporary file is gone,
    and an older file `path` is as it was. A kill leaves the temporary file, whose name begins with a dot.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Writers such as matplotlib choose the format by the suffix.
    temporary = path.with_name(f".{path.stem[:_LONGEST_STEM]}-{secrets.token_hex(4)}{path.suffix}")
    try:
        temporary.open("xb").close()  # with the mode that umask and folder give to any new file
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error  # that the caller knows
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)  # the name too is on the disk from here on
    finally:
        temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write a text as UTF-8, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def to_json(value: Any, **layout: Any) -> str:
    """A value as JSON that every reader takes: with `null` for numbers that are nan or infinite.

    Args:
        value: of dictionaries, lists and plain values.
        layout: as `json.dumps` takes it.
    """
    try:
        return json.dumps(value, allow_nan=False, **layout)
    except ValueError:
        return json.dumps(finite(value), allow_nan=False, **layout)


def finite(value: Any) -> Any:
    """The value with None in place of every number that is nan or infinite."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: finite(entry) for key, entry in value.items()}
    return [finite(entry) for entry in value] if isinstance(value, list | tuple) else value


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON, atomically; see `to_json`."""
    write_text(path, to_json(value, indent=1) + "\n")


def read_json(path: Path, form: "type[BaseModel] | None" = None, hint: str = _RENEW) -> Any:
    """Read JSON.

    Args:
        form: what the file must hold, with the types of its values; other keys are left alone. None takes
            any JSON.
        hint: what to do about a damaged file, for the message.

    Returns:
        the content as it is

    Raises:
        OSError: it cannot be read.
    """
    return _parsed(path.read_bytes(), form, f"{path}:", hint)


def parse_line(path: Path, number: int, line: bytes, form: "type[BaseModel]") -> dict[str, Any]:
    """Line `number`, from 1, of a log of JSON objects that a training writes into its run's folder."""
    hint = f"delete {path.parent} and call the workflow again, which trains this run anew"
    return _parsed(line, form, f"{path}: line {number}:", hint)


def _parsed(text: bytes, form: "type[BaseModel] | None", place: str, hint: str) -> Any:
    try:
        content = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise DamagedFile(f"{place} not valid JSON ({error}); {hint}") from error
    if form and (problem := misfit(content, form)):
        raise DamagedFile(f"{place} {problem}; {hint}")
    return content


def misfit(content: object, form: "type[BaseModel]") -> str:
    """The first value that does not have the form, by its key; empty if all have."""
    from pydantic import ValidationError  # here, as `tood doctor` works without it

    try:
        form.model_validate(content, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        shown = repr(first["input"])
        shown = shown if len(shown) <= _LONGEST_VALUE else f"{shown[:_LONGEST_VALUE]}..."
        problem = first["msg"] + ("" if first["type"] == "missing" else f", not {shown}")
        return f"{key}: {problem}" if key else problem
    return ""
