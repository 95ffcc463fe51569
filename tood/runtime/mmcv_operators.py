"""mmcv as the Python that it is: what stands in for its compiled operators where there are none.

`mmcv.ops`, which every model of mmdet imports, looks up a hundred operators of the compiled module
`mmcv._ext` by name. This suite calls none of them: NMS and deformable convolution are torchvision's. With
the stand-in, all of mmdet can be imported, registered and built; an operator complains when it is called.

`mmcv_operators.pth`, which is installed beside the packages, calls `find_spec` in every Python process of the
environment that looks for `mmcv._ext` in vain. So the order of imports does not matter. Where the package is
only on the PYTHONPATH, `import tood` does the same for what is imported after it.
"""

import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from types import ModuleType

EXTENSION = "mmcv._ext"
HINT = (
    "No head of `tood.heads` needs it; one of mmdet can get torchvision's NMS from "
    "`tood.heads.TorchvisionNMSMixin`. To compile mmcv's operators takes torch, a C++ compiler, for a GPU "
    "also nvcc, and ten minutes: pip install ninja psutil 'setuptools<81' && "
    "pip install --no-build-isolation --no-cache-dir --no-deps --force-reinstall onedl-mmcv"
)


class OperatorMissingError(NotImplementedError):
    """A compiled operator of mmcv was called where none is installed; the message names it."""


class UncompiledOperators(ModuleType):
    """Has every operator by name; calling one raises `OperatorMissingError`."""

    def __getattr__(self, name: str) -> Callable:
        if name.startswith("__"):  # what Python itself looks for in a module
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")

        def operator(*args: object, **kwargs: object) -> None:
            raise OperatorMissingError(f"mmcv's operator {name!r} is called and is not compiled here. {HINT}")

        return operator


class _Loader(Loader):
    @staticmethod
    def create_module(spec: ModuleSpec) -> ModuleType:
        return UncompiledOperators(spec.name)

    @staticmethod
    def exec_module(module: ModuleType) -> None:
        """Nothing to run."""


def find_spec(
    name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
) -> ModuleSpec | None:
    """As the last finder of `sys.meta_path`: the stand-in, for the name of the compiled operators alone."""
    return ModuleSpec(name, _Loader(), origin="stand-in") if name == EXTENSION else None


def stand_in() -> None:
    """From now on `mmcv._ext` can be imported; a compiled one that is installed goes first.

    Imports nothing. May be called again, and after an import of mmdet has failed for want of the operators.
    """
    this = sys.modules[__name__]
    if this not in sys.meta_path:
        sys.meta_path.append(this)
