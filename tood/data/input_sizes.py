"""Sizes of images at the input of a network, and images that would vanish at this size."""

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from tood.data.annotations import ImageFile


def resized(width: int, height: int, limits: Sequence[int]) -> tuple[int, int]:
    """Width and height of an image after mmdet's `Resize` with `keep_ratio`.

    Args:
        width, height: in pixels.
        limits: of the longer and the shorter side, in pixels.
    """
    factor = min(max(limits) / max(width, height), min(limits) / min(width, height))
    return int(width * factor + 0.5), int(height * factor + 0.5)


def thinnest(images: Iterable[ImageFile], folder: Path = Path()) -> ImageFile:
    """The image of a folder with the most unequal sides, by its path; a resize leaves least of it."""
    image = min(images, key=lambda image: min(image[1:]) / max(image[1:]))
    return image._replace(name=str(folder / image.name))


def vanishing(images: Collection[ImageFile], sizes: Iterable[Sequence[int]]) -> str | None:
    """The problem of the thinnest image at an input size; None if a resize leaves a pixel of it at each.

    A shorter side that is drawn anew for each training image (`input.train_short_sides`) needs no check.
    If it limits the size, at least one pixel remains; otherwise the longer side limits, which is never drawn.

    Args:
        images: of a dataset, by their paths; without any there is no problem.
        sizes: limits of the longer and the shorter side, in pixels.
    """
    for limits in sizes if images else ():
        path, width, height = thinnest(images)
        after = resized(width, height, limits)
        if min(after) == 0:
            return (
                f"{path}: width, height: {width} x {height} pixels become {after[0]} x {after[1]} at "
                f"image_size={max(limits)},{min(limits)} (`input.size` of a scale or a configuration). "
                "Hint: cut the image into parts, remove it, or choose a larger image_size."
            )
    return None
