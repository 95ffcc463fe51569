"""Sizes at the input of networks, against mmcv's own, and images of which nothing would be left."""

import random

import mmcv
import pytest

from tood.data.annotations import ImageFile
from tood.data.input_sizes import resized, vanishing


def test_a_size_is_what_mmcv_makes_of_it():
    draw = random.Random(0)
    for _ in range(3000):
        width, height = (round(10 ** draw.uniform(0, 4)) for _ in range(2))
        limits = sorted((draw.randrange(32, 1400), draw.randrange(32, 1400)), reverse=True)
        assert resized(width, height, limits) == mmcv.rescale_size((width, height), tuple(limits))


def test_the_thinnest_image_is_the_first_to_vanish():
    draw = random.Random(1)
    for _ in range(300):
        images = [ImageFile(str(k), draw.randrange(1, 9000), draw.randrange(1, 300)) for k in range(5)]
        limits = (draw.randrange(64, 1400), draw.randrange(32, 64))
        some_vanish = any(min(resized(*image[1:], limits)) == 0 for image in images)
        assert bool(vanishing(images, [limits])) == some_vanish


def test_a_drawn_shorter_side_makes_nothing_vanish_that_the_longer_leaves():
    draw = random.Random(2)
    for _ in range(3000):
        width, height, side = draw.randrange(1, 9000), draw.randrange(1, 300), draw.randrange(1, 1400)
        if min(resized(width, height, (800, 600))) > 0:
            assert min(resized(width, height, (800, side))) > 0


@pytest.mark.parametrize(("height", "size"), [(20, (64, 48)), (20, (48, 64)), (1, (1333, 800))])
def test_the_message_names_file_sizes_and_option(height, size):
    message = vanishing([ImageFile("val/good.png", 64, 48), ImageFile("val/thin.png", 4000, height)], [size])
    assert message.startswith(f"val/thin.png: width, height: 4000 x {height} pixels become {max(size)} x 0 ")
    assert f"image_size={max(size)},{min(size)}" in message
    assert "Hint: cut the image into parts, remove it" in message
    assert vanishing([ImageFile("val/thin.png", 4000, 40)], [size]) is None or height == 1


def test_a_manifest_of_before_knows_of_no_image():
    assert vanishing([], [(64, 48)]) is None
