"""Fixtures of the tests that compare a head with mmdet's."""

import pytest
import torch
from mmdet.models.task_modules.prior_generators import AnchorGenerator


@pytest.fixture
def double(monkeypatch):
    """mmdet makes float32 of anchors, distances and IoUs; in float64 only the arithmetic is compared."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    monkeypatch.setattr(torch, "float", torch.float64)
    monkeypatch.setattr(torch, "float32", torch.float64)
    of_single = AnchorGenerator.grid_priors

    def grid_priors(self, sizes, dtype=torch.float64, device="cpu"):
        return of_single(self, sizes, dtype, device)

    monkeypatch.setattr(AnchorGenerator, "grid_priors", grid_priors)
