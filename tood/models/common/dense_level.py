"""What a dense head predicts for one image before any selection: the common currency of this package.

Post-processing, Table 6 and the maps of Figure 1 all start from it.
"""

from typing import NamedTuple

from torch import Tensor


class DenseLevel(NamedTuple):
    """Every anchor of one pyramid level of one image, in row-major order of the H x W grid.

    Heads with several anchors per location have them all, those of one location together: read H*W below as
    the number of anchors.

    Boxes and points are in pixels of the network's input image, boxes as (x1, y1, x2, y2).
    """

    scores: Tensor  # [H*W, C] classification scores in [0, 1]
    confidence: Tensor  # [H*W, C] what NMS ranks by: scores, times centerness where a head has one
    boxes: Tensor  # [H*W, 4]
    points: Tensor  # [H*W, 2] anchor centres (x, y)
    grid: tuple[int, int]  # (H, W)
    stride: int  # pixels between neighbouring anchors


def grid_of(maps: Tensor) -> tuple[int, int]:
    """(H, W) of maps [..., H, W]."""
    height, width = maps.shape[-2:]
    return height, width
