"""Sizes of images at the input of a network, and images that would vanish at this size."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple


class Sized(NamedTuple):
    """An image file and its size in pixels."""

    path: str
    width: int
    height: int


def resized(width: int, height: int, limits: Sequence[int]) -> tuple[int, int]:
    """Width and height of an image after mmdet's `Resize` with `keep_ratio`.

    Args:
        width, height: in pixels.
        limits: of the longer and the shorter side, in pixels.
    """
    factor = min(max(limits) / max(width, height), min(limits) / min(width, height))
    return int(width * factor + 0.5), int(height * factor + 0.5)


def thinnest(images: Iterable[Sized]) -> Sized:
    """The image with the most unequal sides; a resize leaves least of it."""
    return min(images, key=lambda image: min(image[1:]) / max(image[1:]))


def vanishing(images: Iterable[Sized], limits: Sequence[int]) -> str | None:
    """The problem of the thinnest image at an input size; None if a resize leaves a pixel of it.

    A shorter side that is drawn anew for each training image (`input.train_short_sides`) needs no check.
    If it limits the size, at least one pixel remains; otherwise the longer side limits, which is never drawn.

    Args:
        images: of a dataset.
        limits: of the longer and the shorter side, in pixels.
    """
    path, width, height = thinnest(images)
    try:
        after = resized(width, height, limits)
    except OverflowError:  # no image is so large; reading it will show the error
        return None
    if min(after) > 0:
        return None
    return (
        f"{path}: width, height: {width} x {height} pixels become {after[0]} x {after[1]} at "
        f"image_size={max(limits)},{min(limits)} (`input.size` of a scale or a configuration). Hint: cut the "
        "image into parts, remove it, or choose a larger image_size."
    )


def vanishing_of(manifest: Mapping[str, Any], sizes: Iterable[Sequence[int]]) -> str | None:
    """As `vanishing`, for the images of a checked dataset at several input sizes.

    Args:
        manifest: result of `tood.data.validation.check_dataset`, which keeps each split's thinnest image.
        sizes: limits as for `vanishing`.
    """
    images = [Sized(*image) for image in manifest.get("thinnest", {}).values()]
    return next(filter(None, (vanishing(images, limits) for limits in sizes if images)), None)
