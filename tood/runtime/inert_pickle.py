"""A pickle read without executing anything: plain values, descriptions of tensors, stand-ins for the rest.

A pickle is a program that may call whatever it names. Here it can name nothing but what this module knows.
Every other name becomes `Inert`, which does nothing however it is called, filled or set up.
"""

import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, BinaryIO, ClassVar, NamedTuple, Protocol

import torch

_NUMBERS = ("float16", "float32", "float64", "bfloat16", "uint8", "int8", "int16", "int32", "int64", "bool")
_STORAGES = {  # typed storages, which files name whatever torch wrote them
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "ShortStorage": torch.int16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}


class Readable(Protocol):
    """What is unpickled from: an open binary file, or a memory map."""

    def read(self, n: int = ..., /) -> bytes: ...  # noqa: D102

    def readline(self) -> bytes: ...  # noqa: D102


class Inert:
    """Stands for what a file names and nothing here knows; whatever is done to it does nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> "Inert":  # noqa: D102
        return super().__new__(cls)

    def __call__(self, *args: Any, **kwargs: Any) -> "Inert":  # noqa: D102
        return self

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        """As of a list that a class extends."""

    def extend(self, values: Any) -> None:
        """As of a list that a class extends."""

    def add(self, value: Any) -> None:
        """As of a set that a class extends."""


class StoredStorage(NamedTuple):
    """Where a file keeps the numbers of tensors."""

    dtype: torch.dtype
    key: str


class StoredTensor(NamedTuple):
    """What a file says of a tensor; nothing of it is checked."""

    storage: Any
    offset: Any  # in elements, as the strides
    size: Any
    stride: Any


_LONGEST_SIZE = 64  # of a tensor, as torch has it
_MOST_COPIED = 1_000_000
_KEYS = (str, bytes, int, float, bool, type(None))


def unpickle(file: Readable | BinaryIO) -> tuple[Any, dict[str, torch.dtype]]:
    """The value of one pickle, and the type of each storage that it refers to.

    Args:
        file: stands behind the pickle afterwards.

    Returns:
        Plain values. Tensors are `StoredTensor`, everything else `Inert`, the class or an instance of it.
        Names and numbers may be anything.

    Raises:
        Exception: of any kind; the file holds no complete pickle.
    """
    unpickler = _Unpickler(file, encoding="utf-8", errors="replace")
    return unpickler.load(), unpickler.storages


def _size(sides: Any) -> tuple:
    """A `torch.Size`; a longer one would be a copy of something large, of which a file can ask for many."""
    if len(sides) > _LONGEST_SIZE:
        raise pickle.UnpicklingError(f"a tensor of {len(sides)} dimensions")
    return tuple(sides)


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *others: Any) -> StoredTensor:
    if any(isinstance(other, dict) and (other.get("neg") or other.get("conj")) for other in others):
        raise pickle.UnpicklingError("a tensor whose sign is stored apart; save what `.resolve_neg()` gives")
    return StoredTensor(storage, offset, size, stride)


def _rebuild_parameter(data: Any, *others: Any) -> Any:
    return data


def _rebuild_from_type(rebuild: Callable, kind: Any, args: tuple, state: Any) -> Any:
    return rebuild(*args)  # one of the functions here: a file can name no other


_KNOWN: Mapping[tuple[str, str], Any] = {
    ("torch", "Size"): _size,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _rebuild_parameter,
    ("torch._tensor", "_rebuild_from_type_v2"): _rebuild_from_type,
    **{("torch", name): getattr(torch, name) for name in _NUMBERS},
    **{(module, name): dtype for name, dtype in _STORAGES.items() for module in ("torch", "torch.cuda")},
}


def _plain(key: Any) -> Any:
    """A key as it is, or `Inert` for one that holds others."""
    return key if type(key) in _KEYS else Inert()


def _hashing(code: bytes, hashed: slice) -> Callable[["_Unpickler"], None]:
    """Python's own instruction, with no key that holds others: such keys become `Inert`.

    To hash what is nested in a few bytes can take for ever, or crash.

    Args:
        code: of the instruction.
        hashed: where its keys stand in the stack, which begins at the last mark.
    """
    original: Callable[[Any], None] = pickle._Unpickler.dispatch[code[0]]

    def load(unpickler: "_Unpickler") -> None:
        stack = unpickler.stack
        stack[hashed] = map(_plain, stack[hashed])
        original(unpickler)

    return load


class _Unpickler(pickle._Unpickler):
    """Python's own, not the one in C, whose memory a file of a few bytes could fill."""

    stack: list[Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.storages: dict[str, torch.dtype] = {}
        self._copied = 0

    def _ordered(self, pairs: Sequence[Sequence[Any]] = ()) -> OrderedDict:
        """Python 2 wrote the pairs as an argument; a file can ask for another copy with a few bytes."""
        self._copied += len(pairs)
        if self._copied > _MOST_COPIED:
            raise pickle.UnpicklingError(f"mappings of more than {_MOST_COPIED:,} copied pairs")
        return OrderedDict((_plain(key), value) for key, value in pairs)

    def find_class(self, module_name: str, global_name: str) -> Any:
        """Never imported."""
        if (module_name, global_name) == ("collections", "OrderedDict"):
            return self._ordered
        return _KNOWN.get((module_name, global_name), Inert)

    def persistent_load(self, pid: Any) -> Any:
        """A storage; torch's old container adds of which it is a view, which only torch below 0.4 made."""
        kind, dtype, key, _, _, *view = pid
        if type(key) is not str:
            raise pickle.UnpicklingError("a storage whose key is no text")
        if kind != "storage" or not isinstance(dtype, torch.dtype) or view not in ([], [None]):
            return Inert()
        self.storages.setdefault(key, dtype)
        return StoredStorage(dtype, key)

    def get_extension(self, code: int) -> None:
        """A number in place of a name."""
        self.stack.append(Inert)

    def load_build(self) -> None:
        """The state of an object is passed over: it could replace methods of a mapping."""
        self.stack.pop()

    def load_bytearray(self) -> None:
        """Refused, as it takes memory before it looks whether the file is that long."""
        raise pickle.UnpicklingError("a bytearray")

    dispatch: ClassVar[dict[int, Callable[..., None]]] = {  # by the number of the instruction
        **pickle._Unpickler.dispatch,
        pickle.BUILD[0]: load_build,
        pickle.BYTEARRAY8[0]: load_bytearray,
        pickle.SETITEM[0]: _hashing(pickle.SETITEM, slice(-2, -1)),
        pickle.SETITEMS[0]: _hashing(pickle.SETITEMS, slice(0, None, 2)),
        pickle.DICT[0]: _hashing(pickle.DICT, slice(0, None, 2)),
        pickle.FROZENSET[0]: _hashing(pickle.FROZENSET, slice(None)),
        pickle.ADDITEMS[0]: _hashing(pickle.ADDITEMS, slice(None)),
    }
