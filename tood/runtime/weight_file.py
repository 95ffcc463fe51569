"""Files of weights: state dicts of torch, in both of its containers, and of safetensors. Nothing is executed.

torch's restricted unpickler calls nothing but what builds tensors and plain values. Whatever else a file
names, such as the classes of a trainer's history, stands for nothing. What a file is is told by its content,
not by its name.
"""

import pickletools
import warnings
import zipfile
from _compat_pickle import IMPORT_MAPPING
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, BinaryIO

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tood.runtime.text import single_line

_MAGIC = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")  # in the first pickle of that below
_PICKLES = 5  # of torch's container before 1.6, before the numbers
_SHOWN = 5  # keys that a message names
_AGAIN = "fetch it again"
_OF_WHAT = "the state dict that it was made of is needed"
_SAVE = "save the model's state_dict() alone or under that name"
# How files begin that are taken for weights by mistake, what they are, and what to do
_OTHERS: list[tuple[bytes, str, str]] = [
    (b"version https://git-lfs", "a pointer of Git LFS, not the file", "`git lfs pull` fetches the file"),
    (b"<", "a web page", "fetch the file itself: the address answers with a page, of an error or a login"),
    (b"{", "JSON, not weights", "it may say why a server refused; fetch the file itself"),
    (b"\x1f\x8b", "compressed by gzip", "unpack it first"),
    (b"BZh", "compressed by bzip2", "unpack it first"),
    (b"\xfd7zXZ", "compressed by xz", "unpack it first"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd", "unpack it first"),
    (b"7z\xbc\xaf", "a 7z archive", "unpack it first"),
    (b"Rar!", "a RAR archive", "unpack it first"),
    (b"\x89HDF", "HDF5, as Keras writes it", "a state dict of torch or safetensors is needed"),
    (b"\x93NUMPY", "an array of numpy", "a state dict of torch or safetensors is needed"),
    (b"\x89PNG", "an image", "name the weights"),
    (b"\xff\xd8\xff", "an image", "name the weights"),
    (b"\x7fELF", "a program", "name the weights"),
    (b"%PDF", "a PDF", "name the weights"),
]


class WeightFileError(RuntimeError):
    """A file that cannot be read as weights; the message names it, says what it is, and gives a hint."""


@dataclass(frozen=True)
class WeightFile:
    """What is taken from a file."""

    state_dict: dict[str, Tensor]
    meta: Any  # what the file says of itself, not checked; parts that are no plain values are `Inert`


class Inert:
    """Stands for what a file names and torch does not know; whatever is done to it does nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> "Inert":  # noqa: D102
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        pass


def read_weights(path: Path) -> WeightFile:
    """The state dict of a file, alone or under "state_dict", and its "meta".

    Raises:
        WeightFileError: it cannot be read, or is anything else.
    """
    try:
        with path.open("rb") as file:
            return _read(file, path)
    except WeightFileError:
        raise
    except OSError as error:
        raise WeightFileError(f"{path}: cannot be read ({error.strerror}); name a file of weights") from error
    except Exception as error:  # a damaged file may fail anywhere
        detail = single_line(f"{type(error).__name__}: {error}")[:200]
        if isinstance(error, UnpicklingError):  # torch would advise to execute what is in the file
            detail = "or holds more than tensors and plain values: save the model's state_dict() alone"
        raise WeightFileError(f"{path}: is damaged or incomplete ({detail}); {_AGAIN}") from error


def _read(file: BinaryIO, path: Path) -> WeightFile:
    """By what the file begins with."""
    start, size = file.read(4096), path.stat().st_size
    file.seek(0)
    if not start:
        raise WeightFileError(f"{path}: is empty; {_AGAIN}")
    if start[8:9] == b"{" and 0 < int.from_bytes(start[:8], "little") < size:
        return WeightFile(_state_dict(load_file(path), path), None)
    if start[:2] == b"PK":
        return _of_torch(path, _names_in_zip(file, path))
    if start[:1] == b"\x80" and _MAGIC not in start[:20]:
        raise WeightFileError(
            f"{path}: is a pickle and not of torch; save the weights by torch.save or as safetensors"
        )
    if start[:1] == b"\x80":
        return _of_torch(path, [name for _ in range(_PICKLES) for name in _names(file)])
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    for beginning, what, hint in _OTHERS:
        if text.startswith(beginning):
            raise WeightFileError(f"{path}: is {what}; {hint}")
    if start[257:262] == b"ustar":
        raise WeightFileError(f"{path}: is a tar archive; unpack it first")
    if path.suffix == ".onnx" or (start[:1] == b"\x08" and start[2:3] == b"\x12"):
        raise WeightFileError(f"{path}: is ONNX, a graph; {_OF_WHAT}")
    is_text = all(byte >= 32 or byte in b"\t\n\r" for byte in start)
    what = "text" if is_text else "neither of torch nor safetensors"
    raise WeightFileError(f"{path}: cannot be read as weights: it is {what}; {_AGAIN}")


def _names_in_zip(file: BinaryIO, path: Path) -> list[str]:
    """What the pickle of torch's container since 1.6 names; nothing in that archive is compressed."""
    archive = zipfile.ZipFile(file)
    names = {name.partition("/")[2]: name for name in archive.namelist()}
    if "constants.pkl" in names or any(name.startswith("code/") for name in names):
        raise WeightFileError(f"{path}: is TorchScript, a program; {_OF_WHAT}")
    if "data.pkl" not in names:
        raise WeightFileError(
            f"{path}: is a zip archive and not of torch, with {_listed(archive.namelist())}; if the weights "
            "are in it, unpack it"
        )
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
        raise ValueError("a part of it is compressed")  # a few bytes could stand for gigabytes
    with archive.open(names["data.pkl"]) as pickled:
        return list(_names(pickled))


def _names(pickled: Any) -> Iterator[str]:
    """The modules' attributes that one pickle refers to, by the names of Python 3."""
    for instruction, argument, _ in pickletools.genops(pickled):
        if instruction.name == "GLOBAL":
            module, name = str(argument).split(" ")
            yield f"{IMPORT_MAPPING.get(module, module)}.{name}"


def _of_torch(path: Path, names: list[str]) -> WeightFile:
    unknown: list[Any] = [(Inert, name) for name in set(names)]  # what torch knows goes first
    with torch.serialization.safe_globals(unknown), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other protocols than torch writes, which then fail
        content = torch.load(path, map_location="cpu", weights_only=True)
    held = content if isinstance(content, dict) else {}
    return WeightFile(_state_dict(held.get("state_dict", content), path), held.get("meta"))


def _state_dict(stored: Any, path: Path) -> dict[str, Tensor]:
    """The state dict, if it is one: it has entries, its names are names, and its values are plain tensors."""
    problem = ""
    if not isinstance(stored, dict):
        problem = "an object of a class" if isinstance(stored, Inert) else f"a {type(stored).__name__}"
    elif odd := [name for name, tensor in stored.items() if not _is_plain(tensor)]:
        problem = _listed(odd)
    elif not stored or not all(isinstance(name, str) and name.isprintable() for name in stored):
        problem = "names that are no text" if stored else "nothing"
    if problem:
        raise WeightFileError(f"{path}: holds no state dict of names and tensors, but {problem}; {_SAVE}")
    return {name: tensor.detach() for name, tensor in stored.items()}


def _is_plain(value: Any) -> bool:
    return (
        type(value) in (Tensor, nn.Parameter)
        and value.device.type == "cpu"
        and value.layout == torch.strided
        and not value.is_quantized
        and value.nbytes <= value.untyped_storage().nbytes()
    )


def _listed(names: Any) -> str:
    """The first of some names, which may be anything."""
    texts = [name[:40] if isinstance(name, str) else type(name).__name__ for name in list(names)[:_SHOWN]]
    return ", ".join(repr(text)[1:-1] for text in texts) or "nothing"
