"""IQDet's sampling: positions are drawn from an object's quality, and predictions are read between points.

`iqdet.py` names the origin of each part.
"""

import hashlib
from typing import NamedTuple

import torch
from torch import Tensor

from tood.models.baselines.ota import inside

LEAST_QUALITY = 1e-6  # in drawing: if an object's mixtures are 0 at all its points, it draws them evenly


class Pyramid(NamedTuple):
    """The points of all levels, one level after the other, row by row."""

    points: Tensor  # [A, 2] pixels
    levels: Tensor  # [A]
    strides: Tensor  # [L] pixels
    grids: Tensor  # [L, 2] height and width


class CandidatePairs(NamedTuple):
    """Objects with the points where they may have positives, by rising object."""

    objects: Tensor  # [P]
    points: Tensor  # [P]


class Samples(NamedTuple):
    """Positions drawn for objects."""

    objects: Tensor  # [S]
    levels: Tensor  # [S]
    positions: Tensor  # [S, 2] pixels


def candidate_pairs(points: Tensor, gt_boxes: Tensor) -> CandidatePairs:
    """Which points belong to which objects: all points inside the object, on every level.

    An object without such a point has the point nearest to its centre; of equally near points it has the
    first, which is on the finest level.

    Args:
        points: [A, 2] pixels.
        gt_boxes: [G, 4] pixels.
    """
    candidate = inside(points, gt_boxes)  # [G, A]
    x, y = ((gt_boxes[:, :2] + gt_boxes[:, 2:]) / 2).T[..., None]  # [G, 1]
    distances = (x - points[:, 0]).square() + (y - points[:, 1]).square()  # [G, A]
    nearest = distances.argmin(1, keepdim=True) == torch.arange(len(points), device=points.device)
    candidate |= nearest & ~candidate.any(1, keepdim=True)
    return CandidatePairs(*candidate.nonzero(as_tuple=True))


def touching(pairs: CandidatePairs, pyramid: Pyramid, gt_boxes: Tensor) -> CandidatePairs:
    """The pairs whose object and cell overlap; other objects are outside of the map."""
    start, end = common_part(pairs, pyramid, gt_boxes)
    kept = (start <= end).all(1).nonzero().squeeze(1)  # once for both
    return CandidatePairs(pairs.objects[kept], pairs.points[kept])


def pairs_of(objects: Tensor, number: int) -> Tensor:
    """[G] how many pairs each of a number of objects has, of the pairs' objects [P]."""
    return objects.new_zeros(number).index_add(0, objects, torch.ones_like(objects))


def common_part(pairs: CandidatePairs, pyramid: Pyramid, gt_boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Corners [P, 2] and [P, 2] of what a point's cell and an object's box have in common.

    The cell of a point is the square around it, a stride wide.
    """
    points, boxes = pyramid.points[pairs.points], gt_boxes[pairs.objects]
    half = pyramid.strides[pyramid.levels[pairs.points]][:, None] / 2
    return torch.maximum(points - half, boxes[:, :2]), torch.minimum(points + half, boxes[:, 2:])


def draws(image: object, progress: float, objects: int, samples: int) -> Tensor:
    """Random numbers [objects, samples, 3] in [0, 1), float64, on the CPU.

    They depend on the arguments alone: not on the device, on the images of the batch, or on how many random
    numbers were used before. So a batch has the same samples on any number of processes, in any number of
    forward passes, and after a resumption. Trainings with other seeds meet an image at another progress.

    Args:
        image: id of the image.
        progress: share of the training that is done.
        objects: number of objects of the image.
        samples: number of positions for each.
    """
    key = hashlib.blake2b(repr((image, progress)).encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(key))
    return torch.rand(objects, samples, 3, generator=generator, dtype=torch.float64, device="cpu")


def sample(
    pairs: CandidatePairs, quality: Tensor, pyramid: Pyramid, gt_boxes: Tensor, numbers: Tensor
) -> Samples:
    """Draw positions in proportion to the quality of the points, with replacement.

    The point is drawn first, over all levels together, then the position, evenly in the common part of the
    point's cell and the box. A position never leaves its object.

    Args:
        pairs: by rising object.
        quality: [P] of the pairs.
        pyramid: of the image.
        gt_boxes: [G, 4] pixels.
        numbers: [G, N, 3] random in [0, 1): N positions for each object that has a pair.
    """
    weights = quality.double().clamp(min=LEAST_QUALITY)
    ends = weights.cumsum(0)  # [P]
    number = pairs_of(pairs.objects, len(gt_boxes))  # [G]
    drawing = (number > 0).nonzero().squeeze(1)  # [D]
    last = (number.cumsum(0) - 1)[drawing]  # [D]
    first = last - number[drawing] + 1
    start = ends[first] - weights[first]
    numbers = numbers.to(ends)[drawing]  # [D, N, 3]
    share = start[:, None] + numbers[..., 0] * (ends[last] - start)[:, None]  # [D, N]
    drawn = torch.searchsorted(ends, share, right=True)
    drawn = drawn.clamp(first[:, None], last[:, None]).flatten()  # [S]
    chosen = CandidatePairs(pairs.objects[drawn], pairs.points[drawn])
    corner, opposite = common_part(chosen, pyramid, gt_boxes)
    positions = corner + (opposite - corner) * numbers[..., 1:].flatten(0, 1).to(corner)
    return Samples(chosen.objects, pyramid.levels[chosen.points], positions)


def bilinear_cells(positions: Tensor, levels: Tensor, pyramid: Pyramid) -> tuple[Tensor, Tensor]:
    """The four points around each position and their weights in a bilinear interpolation.

    A position beyond the outermost points reads at the nearest position on their line.

    Args:
        positions: [S, 2] pixels.
        levels: [S] of the positions.
        pyramid: its points are at multiples of the stride.

    Returns:
        points [S, 4], weights [S, 4] of sum 1
    """
    sizes = pyramid.grids.flip(1)  # [L, 2] width and height
    starts = sizes.prod(1).cumsum(0) - sizes.prod(1)  # [L] number of points on the levels before
    limits = sizes[levels] - 1  # [S, 2]
    places = positions / pyramid.strides[levels][:, None].to(positions)
    places = torch.minimum(places.clamp(min=0), limits.to(places))
    near = places.floor()
    share = places - near  # [S, 2]
    columns, rows = torch.stack([near.long(), torch.minimum(near.long() + 1, limits)], 2).unbind(1)  # [S, 2]
    cells = starts[levels][:, None, None] + rows[:, :, None] * sizes[levels, 0][:, None, None]
    x, y = torch.stack([1 - share, share], 2).unbind(1)  # [S, 2]
    return (cells + columns[:, None]).flatten(1), (y[:, :, None] * x[:, None]).flatten(1)


def read(rows: Tensor, cells: Tensor, weights: Tensor) -> Tensor:
    """[S, D] values at samples: rows [A, D] of the points, cells [S, 4] and weights [S, 4]."""
    return (rows[cells] * weights[..., None]).sum(1)
