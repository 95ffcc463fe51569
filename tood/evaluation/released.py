"""Translates the names of parameters in files that others released into ours."""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from tood.models.common.layers import rename_offsets

# Parameter names inside the head: (mmdet 3 or the authors' release, this package). The authors' release
# differs from mmdet only where it names convolutions one by one (la_conv1, cls_prob_conv1, ...).
_RENAMES = [
    (r"inter_convs\.", "predictor.tower."),
    (r"(cls|reg)_decomp\.layer_attention\.", r"predictor.\1_decomposition.attention."),
    (r"(cls|reg)_decomp\.la_conv1\.", r"predictor.\1_decomposition.attention.0."),
    (r"(cls|reg)_decomp\.la_conv2\.", r"predictor.\1_decomposition.attention.2."),
    (r"(cls|reg)_decomp\.reduction_conv\.", r"predictor.\1_decomposition.reduction."),
    (r"tood_(cls|reg)\.", r"predictor.\1_conv."),
    (r"cls_prob_module\.", "predictor.alignment.probability."),
    (r"cls_prob_conv1\.", "predictor.alignment.probability.0."),
    (r"cls_prob_conv2\.", "predictor.alignment.probability.2."),
    (r"reg_offset_module\.", "predictor.alignment.offset."),
    (r"reg_offset_conv1\.", "predictor.alignment.offset.0."),
    (r"reg_offset_conv2\.", "predictor.alignment.offset.2."),
]
_PREFIX = "bbox_head."
# Prefixes of all names: of torch's parallel training, of its compiler, of a model inside another one
_WRAPPERS = ("module.", "_orig_mod.", "model.")
_AVERAGED = "ema_"  # before the names of moving averages that mmcv keeps beside the weights
# The last convolutions of FCOS and FoveaBox, by their first names in mmdet
_EARLY_CONV = r"^(bbox_head\.)(?:fcos|fovea)_(cls|reg|centerness)\."


def ours(state_dict: Mapping[str, Tensor], expected: Iterable[str]) -> dict[str, Tensor]:
    """A state dict of mmdet, of any of its versions, or of the authors' release, renamed for a detector here.

    If a file has moving averages beside the weights, the tensors with the plain names are used, as in mmdet.
    In files of mmengine these are the averages.

    Args:
        state_dict: names to tensors; not modified, tensors are shared.
        expected: names in the detector's own state dict, which show whether it has a TOOD head.

    Raises:
        ValueError: it has a TOOD head, and the state dict has none.
    """
    plain = rename_offsets(_unwrapped(state_dict))
    plain = {re.sub(_EARLY_CONV, r"\1conv_\2.", name): tensor for name, tensor in plain.items()}
    is_tood = any(name.startswith(f"{_PREFIX}predictor.") for name in expected)
    return convert(plain) if is_tood else plain


def _unwrapped(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the prefixes that all names have, and without moving averages beside the weights."""
    names = {name: tensor for name, tensor in state_dict.items() if not name.startswith(_AVERAGED)}
    for prefix in _WRAPPERS:
        if names and all(name.startswith(prefix) for name in names):
            return _unwrapped({name.removeprefix(prefix): tensor for name, tensor in names.items()})
    return names


def convert(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of mmdet's TOOD or of the authors' release, renamed for this package's detector.

    Accepts a whole detector's (`backbone.`, `neck.`, `bbox_head.`) or a bare head's; a checkpoint file
    holds it under "state_dict". Names that are already ours, and all names outside the head, stay unchanged.

    Args:
        state_dict: names to tensors; not modified, tensors are shared.

    Raises:
        ValueError: no parameter of a TOOD head in it.
    """
    converted, renamed = {}, 0
    for name, tensor in state_dict.items():
        prefix, inner = (_PREFIX, name[len(_PREFIX) :]) if name.startswith(_PREFIX) else ("", name)
        for pattern, replacement in _RENAMES:
            ours, count = re.subn(f"^{pattern}", replacement, inner)
            if count:
                inner = ours
                break
        renamed += inner.startswith("predictor.")
        converted[prefix + inner] = tensor
    if not renamed:
        raise ValueError(
            "no parameter of a TOOD head in this state dict (looked for inter_convs, cls_decomp, tood_cls, "
            "...); of a checkpoint file pass its 'state_dict'"
        )
    return converted
