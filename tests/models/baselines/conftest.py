"""Fixtures of the tests that compare a head with mmdet's."""

import pytest
from helpers.operators import no_rounding


@pytest.fixture
def double():
    """mmdet makes float32 of anchors, distances and IoUs; in float64 only the arithmetic is compared."""
    with no_rounding():
        yield
