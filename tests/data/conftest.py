"""A dataset of a few drawn images."""

from pathlib import Path

import pytest

from tood.data.synthetic import DrawingSpec, generate


@pytest.fixture
def root(tmp_path) -> Path:
    root = tmp_path / "coco"
    generate(root, DrawingSpec(seed=0, train_images=6, val_images=3, image_size=(48, 32)))
    return root
