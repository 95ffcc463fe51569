"""The pyramid of a scale's detectors, fit for images of another size.

A scale that draws its images states strides and ranges for their size. For other images the finest level
stays while they are small, and the pyramid grows until its coarsest stride is about an eighth of the longer
side, as the paper's is. So the largest anchors are about as large as the image, whatever its size. In
strides, anchors and ranges are the paper's at every size.
"""

import math
from collections.abc import Mapping
from typing import Any

FINEST, COARSER_FROM = 4, 256  # stride of the finest level, which is twice that above so many pixels
SMALLEST, LARGEST = 32, 2048  # sides of an image, pixels
_STAGES = 3  # of the backbone, whose own levels these are


def strides_for(longer: int) -> list[int]:
    """Strides of the pyramid's levels for images of this longer side, in pixels."""
    finest = FINEST if longer <= COARSER_FROM else 2 * FINEST
    coarsest = 2 ** round(math.log2(longer / 8))
    return [finest * 2**level for level in range(max(_STAGES, round(math.log2(coarsest / finest)) + 1))]


def fitted_model(model: Mapping[str, Any], longer: int) -> dict[str, Any]:
    """A scale's changes of `model`, for images of this longer side."""
    strides = strides_for(longer)
    backbone = {**model["backbone"], "strides": [1 if strides[0] == FINEST else 2, 2, 2]}
    return {
        **model,
        "data_preprocessor": {**model["data_preprocessor"], "pad_size_divisor": strides[_STAGES - 1]},
        "backbone": backbone,
        "neck": {**model["neck"], "num_outs": len(strides)},
    }


def fitted_head(head: Mapping[str, Any], longer: int) -> dict[str, Any]:
    """A scale's changes of one head: what they say of strides, sizes of anchors and ranges of distances."""
    strides = strides_for(longer)
    finer, last = [0, *strides[:-1]], len(strides) - 1
    of_size: dict[str, Any] = {
        "strides": strides,
        # Of FCOS without its improvements: pixels of a distance of exp(0), an eighth of the finest stride
        "unit": strides[0] / 8,
        # Up to which distance from a point to a side of its box, in pixels, a level is responsible
        "regress_ranges": [
            [8 * below if below else -1, 1e8 if level == last else 8 * stride]
            for level, (below, stride) in enumerate(zip(finer, strides, strict=True))
        ],
        # Of FoveaBox: typical sides of boxes, and those between which a level is responsible
        "base_edge_list": [2 * stride for stride in strides],
        "scale_ranges": [
            [4 * below or 1, (16 if level == last else 8) * stride]
            for level, (below, stride) in enumerate(zip(finer, strides, strict=True))
        ],
    }
    return {
        key: fitted_head(value, longer) if isinstance(value, Mapping) else of_size.get(key, value)
        for key, value in head.items()
    }
