"""Fixtures shared by the tests."""

from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
TINY_COCO = REPOSITORY.parent / "shared" / "data" / "tiny_coco"


@pytest.fixture(scope="session")
def tiny_coco() -> Path:
    if not TINY_COCO.is_dir():
        pytest.skip(f"100 real COCO images are expected at {TINY_COCO}; this machine has none")
    return TINY_COCO
