"""Anchors of Detectron's `generate_anchors`, written out."""

import numpy as np
import pytest

from tood.models import RoundedAnchorGenerator

STRIDES = [8, 16, 32, 64, 128]


def restated(stride: int) -> list[list[float]]:
    """(x1, y1, x2, y2) as in that code, whose boxes end at their last pixel; scales within ratios."""
    found = []
    for ratio in (0.5, 1.0, 2.0):
        width = np.round(np.sqrt(stride * stride / ratio))
        height = np.round(width * ratio)
        for octave in range(3):
            scale = 4 * 2 ** (octave / 3)
            centre = (stride - 1) / 2
            w, h = (width * scale - 1) / 2, (height * scale - 1) / 2
            found.append([centre - w, centre - h, centre + w, centre + h])
    return found


@pytest.fixture
def generator():
    return RoundedAnchorGenerator(
        strides=STRIDES, ratios=[0.5, 1.0, 2.0], octave_base_scale=4, scales_per_octave=3, center_offset=0.5
    )


def test_sides_are_whole_at_the_size_of_the_stride(generator):
    first = generator.base_anchors[0][0]
    assert (first[2:] - first[:2]).tolist() == [44, 24]  # and not 45.3 and 22.6


@pytest.mark.parametrize("level", range(5))
def test_anchors_are_those_of_detectron(generator, level):
    """Boxes here end one pixel later, so that their sides are the same without counting one more."""
    expected = np.add(restated(STRIDES[level]), [0, 0, 1, 1])
    np.testing.assert_allclose(generator.base_anchors[level].numpy(), expected, rtol=1e-6, atol=1e-4)


def test_they_move_by_the_stride(generator):
    (anchors, *_) = generator.grid_priors([(2, 2)] * 5, device="cpu")
    np.testing.assert_allclose((anchors[9:18] - anchors[:9]).numpy(), [[8, 0, 8, 0]] * 9, atol=1e-5)
