"""Files of weights: state dicts of torch, in both of its containers, and of safetensors. Nothing is executed.

Whatever else a file holds, such as an optimiser or a trainer's history, is passed over unread. What a file is
is told by its content, not by its name.
"""

import math
import mmap
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors.torch import load_file
from torch import Tensor

from tood.runtime.inert_pickle import Inert, StoredStorage, StoredTensor, unpickle
from tood.runtime.text import single_line

_MAGIC = 0x1950A86A20F9469CFC6C  # first value of torch's container before 1.6
_MOST_SIDES = 16
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
        raise WeightFileError(f"{path}: is damaged or incomplete ({detail}); {_AGAIN}") from error


def _read(file: BinaryIO, path: Path) -> WeightFile:
    """By what the file begins with."""
    start, size = file.read(4096), path.stat().st_size
    if not start:
        raise WeightFileError(f"{path}: is empty; {_AGAIN}")
    if start[8:9] == b"{" and 0 < int.from_bytes(start[:8], "little") < size:
        return WeightFile(_some(load_file(path), path), None)
    if start[:2] == b"PK":
        return _of_torch(*_zip(file, size, path), path)
    if start[:1] == b"\x80":
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return _of_torch(*_old(content, path), path)
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


# torch's containers: the pickled value, and the bytes of a storage by its key


def _zip(file: BinaryIO, size: int, path: Path) -> tuple[Any, Callable[[str], bytes]]:
    """Since 1.6: a zip archive of a pickle and the storages, none compressed."""
    archive = zipfile.ZipFile(file)
    names = {name.partition("/")[2]: name for name in archive.namelist()}
    if "constants.pkl" in names or any(name.startswith("code/") for name in names):
        raise WeightFileError(f"{path}: is TorchScript, a program; {_OF_WHAT}")
    if "data.pkl" not in names:
        raise WeightFileError(
            f"{path}: is a zip archive and not of torch, with {_listed(archive.namelist())}; if the weights "
            "are in it, unpack it"
        )
    left = size  # no archive of torch holds more than its own size

    def member(name: str) -> bytes:
        nonlocal left
        entry = archive.getinfo(names[name])
        left -= entry.file_size
        if left < 0 or entry.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{name} is compressed or overlaps others")
        return archive.read(entry)

    if "byteorder" in names and member("byteorder") != b"little":
        raise ValueError("its numbers are big-endian")
    value, _ = unpickle(BytesIO(member("data.pkl")))
    return value, lambda key: member(f"data/{key}")


def _old(content: mmap.mmap, path: Path) -> tuple[Any, Callable[[str], bytes]]:
    """Before 1.6: five pickles, then each storage behind its number of elements."""
    if unpickle(content)[0] != _MAGIC:
        raise WeightFileError(
            f"{path}: is a pickle and not of torch; save the weights by torch.save or as safetensors"
        )
    unpickle(content)  # the version of this container, which has been 1001 throughout
    system, (value, types) = unpickle(content)[0], unpickle(content)
    if not system["little_endian"]:
        raise ValueError("its numbers are big-endian")
    storages = {}
    for key in unpickle(content)[0]:
        count = int.from_bytes(content.read(8), "little")
        start = content.tell()
        content.seek(start + count * types[key].itemsize)
        storages[key] = slice(start, content.tell())
    return value, lambda key: content[storages[key]]


# From what is stored to tensors


def _of_torch(value: Any, storage: Callable[[str], bytes], path: Path) -> WeightFile:
    held = value if isinstance(value, dict) else {}
    stored = held.get("state_dict", value)
    if not isinstance(stored, dict):
        kind = "an object of a class" if isinstance(stored, Inert) else f"a {type(stored).__name__}"
        what = _listed(held) if held else kind
        raise WeightFileError(f"{path}: holds no state dict of names and tensors, but {what}; {_SAVE}")
    if odd := [name for name, tensor in stored.items() if not isinstance(tensor, StoredTensor)]:
        raise WeightFileError(
            f"{path}: holds no state dict of names and tensors, but {_listed(odd)}; {_SAVE}"
        )
    numbers: dict[StoredStorage, Tensor] = {}
    state_dict = {name: _tensor(tensor, storage, numbers) for name, tensor in stored.items()}
    return WeightFile(_some(state_dict, path), held.get("meta"))


def _some(state_dict: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The state dict, which has entries and whose names are names."""
    if not state_dict or not all(isinstance(name, str) and name.isprintable() for name in state_dict):
        what = "names that are no text" if state_dict else "nothing"
        raise WeightFileError(f"{path}: holds no state dict of names and tensors, but {what}; {_SAVE}")
    return state_dict


def _tensor(
    stored: StoredTensor, storage: Callable[[str], bytes], numbers: dict[StoredStorage, Tensor]
) -> Tensor:
    """A tensor, after it was seen that its storage is as long as it says.

    Args:
        stored: what the file says of it.
        storage: bytes of a storage by its key.
        numbers: elements of the storages so far; this adds to it.

    Raises:
        ValueError: it is longer, or its shape is none.
    """
    place, offset, size, stride = stored
    if not (
        isinstance(size, tuple) and isinstance(stride, tuple) and len(size) == len(stride) <= _MOST_SIDES
    ):
        raise ValueError("a tensor's shape is none")
    if not all(type(number) is int and 0 <= number < 2**48 for number in (offset, *size, *stride)):
        raise ValueError("a tensor's shape is none")
    if not isinstance(place, StoredStorage):
        raise ValueError("a tensor's numbers are of an unknown type")
    count = math.prod(size)
    if count == 0:
        return torch.empty(size, dtype=place.dtype)
    if place not in numbers:
        numbers[place] = torch.frombuffer(bytearray(storage(place.key)), dtype=place.dtype)
    length = numbers[place].numel()
    if count > length or offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) >= length:
        raise ValueError(f"a tensor of {list(size)} has {length} stored numbers")
    return numbers[place].as_strided(size, stride, offset)


def _listed(names: Any) -> str:
    """The first of some names, which may be anything."""
    texts = [name[:40] if isinstance(name, str) else type(name).__name__ for name in list(names)[:_SHOWN]]
    return ", ".join(repr(text)[1:-1] for text in texts) or "nothing"
