"""What a configuration may name: only classes, by their registered names.

mmengine imports a name that its registries do not know: it finds `os.system`, and calls it with the values
beside `type`. mmcv evaluates the name of an NMS as Python. So names are checked before anything is built.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmengine.registry import MODELS, TASK_UTILS, TRANSFORMS, WEIGHT_INITIALIZERS, Registry

from tood.study.declarations import ExperimentError

MODEL_PARTS = (MODELS, TASK_UTILS, WEIGHT_INITIALIZERS)  # and what is registered below them
IMAGE_STEPS = (TRANSFORMS,)
# Allowed words by their key; they are not in a registry
_NMS = ("nms", "soft_nms")
_STEP = ("conv", "last_conv", "interpolation_conv")  # of NAS-FCOS's pyramid
_WORDS: Mapping[str, Sequence[str]] = {
    **dict.fromkeys(("nms", "dqs_cfg"), _NMS),
    **dict.fromkeys(("same_up_trans", "same_down_trans", "across_lateral_trans"), _STEP),
    **dict.fromkeys(("across_down_trans", "across_up_trans", "across_skip_trans", "output_trans"), _STEP),
}


def require_registered(part: Any, place: str, roots: Sequence[Registry]) -> None:
    """Make sure that every `type` in a part of a configuration is a registered name.

    Args:
        part: a mapping, a list, or a value in one.
        place: its key, with those around it, for messages.
        roots: registries of mmengine; those below them count too.

    Raises:
        ExperimentError: a `type` is anything else, or a key `_scope_` names where names are looked up.
    """
    known = {name for root in roots for registry in _all(root) for name in _names(registry)}
    for where, key, value in _types(part, place):
        words = _WORDS.get(where.rpartition(".")[2], ())
        if key != "type" or not (isinstance(value, str) and (value in known or value in words)):
            shown = (
                repr(value) if isinstance(value, str) else getattr(value, "__name__", type(value).__name__)
            )
            raise ExperimentError(
                f"{where}.{key}: {shown[:80]} is no registered name; only what mmengine, mmcv, mmdet or this "
                "suite registers is built"
            )


def _all(registry: Registry) -> Iterator[Registry]:
    """A registry and the registries below it, filled."""
    registry.import_from_location()
    yield registry
    for child in registry.children.values():
        yield from _all(child)


def _names(registry: Registry) -> Iterator[str]:
    """Names in a registry; those of mmdet, mmcv and mmengine are also found without their scope."""
    for name in registry.module_dict:
        yield f"{registry.scope}.{name}"
        if registry.scope in ("mmdet", "mmengine"):
            yield name


def _types(part: Any, place: str) -> Iterator[tuple[str, str, Any]]:
    """The place, the key and the value of each entry that decides which class is built."""
    if isinstance(part, Mapping):
        for key, value in part.items():
            if key in ("type", "_scope_"):
                yield place, key, value
            yield from _types(value, f"{place}.{key}")
    elif isinstance(part, list | tuple):
        for value in part:
            yield from _types(value, place)
