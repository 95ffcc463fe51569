"""Losses by formula beside torch's and mmdet's."""

import pytest
import torch
import torch.nn.functional as F
from mmdet.models.losses import CrossEntropyLoss as MMDetCrossEntropyLoss
from mmdet.models.losses import DistributionFocalLoss as MMDetDistributionFocalLoss
from mmdet.models.losses.focal_loss import py_sigmoid_focal_loss
from torch import Tensor

from tood.models import CrossEntropyLoss, DistributionFocalLoss, FocalLoss
from tood.models.common.losses import binary_cross_entropy, one_hot


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def with_ends(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Scores and targets, with 0 and 1 on both sides, and what is nearly 0 or 1."""
    ends = torch.tensor([0.0, 1, 0.5, 1e-30, 1e-7, 1 - 1e-7], dtype=dtype)
    pairs = torch.cartesian_prod(ends, torch.tensor([0.0, 1, 0.3], dtype=dtype))
    return torch.cat([drawn(500, dtype=dtype), pairs[:, 0]]), torch.cat(
        [drawn(500, seed=1, dtype=dtype), pairs[:, 1]]
    )


@pytest.mark.parametrize(("dtype", "relative"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_binary_cross_entropy_is_torchs(dtype, relative):
    scores, targets = with_ends(dtype)
    ours, theirs = scores.clone().requires_grad_(), scores.clone().requires_grad_()
    found = binary_cross_entropy(ours, targets)
    expected = F.binary_cross_entropy(theirs, targets, reduction="none")
    torch.testing.assert_close(found, expected, rtol=relative, atol=1e-15)
    probe = drawn(len(scores), seed=2, dtype=dtype)
    (found * probe).sum().backward()
    (expected * probe).sum().backward()
    # torch bounds the denominator by float32's 1e-12
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=max(relative, 1e-7), atol=0)
    assert ours.grad.isfinite().all()


def test_binary_cross_entropy_has_two_derivatives():
    scores, targets = 0.05 + 0.9 * drawn(20), drawn(20, seed=1)
    scores.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: binary_cross_entropy(s, targets), scores)
    assert torch.autograd.gradgradcheck(lambda s: binary_cross_entropy(s, targets), scores)


def test_binary_cross_entropy_beyond_its_range_is_no_number():
    scores = torch.tensor([torch.nan, -0.5, 1.5], requires_grad=True)
    found = binary_cross_entropy(scores, torch.tensor([0.0, 0.5, 0.5]))
    assert found.isnan().all()
    found.sum().backward()
    assert scores.grad[0].isnan()


def test_binary_cross_entropy_under_autocast():
    scores = torch.tensor([0.25], dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        found = binary_cross_entropy(scores, torch.ones(1, dtype=torch.bfloat16))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, -torch.tensor([0.25]).log())


def test_one_hot():
    labels = torch.tensor([[2, 0], [3, -1]])
    assert one_hot(labels, 3).tolist() == [[[0, 0, 1], [1, 0, 0]], [[0, 0, 0], [0, 0, 0]]]


def test_focal_loss_takes_labels():
    logits, labels = drawn(40, 5) * 8 - 4, torch.arange(40) % 6
    expected = py_sigmoid_focal_loss(logits, F.one_hot(labels, 6)[:, :5], avg_factor=7.0)
    torch.testing.assert_close(FocalLoss()(logits, labels, avg_factor=7.0), expected)


def test_cross_entropy_is_mmdets():
    logits, labels = drawn(40, 5) * 8 - 4, torch.arange(40) % 5
    expected = MMDetCrossEntropyLoss(loss_weight=0.1)(logits, labels, avg_factor=7.0)
    ours = CrossEntropyLoss(loss_weight=0.1)
    torch.testing.assert_close(ours(logits, labels, avg_factor=7.0), expected)
    beyond = torch.cat([labels, torch.tensor([-1, 5])]), torch.cat([logits, drawn(2, 5)])
    torch.testing.assert_close(ours(beyond[1], beyond[0], avg_factor=7.0), expected)


def test_distribution_focal_loss_is_mmdets():
    ours, theirs = (drawn(60, 17).mul(8).requires_grad_() for _ in range(2))
    targets = torch.cat([drawn(57, seed=1) * 15.9, torch.tensor([0.0, 3, 15.9], dtype=torch.float64)])
    weights = drawn(60, seed=2)
    losses = [
        loss(loss_weight=0.25)(logits, targets, weights, avg_factor=4.0)
        for loss, logits in ((DistributionFocalLoss, ours), (MMDetDistributionFocalLoss, theirs))
    ]
    # mmdet's makes float32 of the places, which are whole
    torch.testing.assert_close(*losses, rtol=1e-12, atol=0)
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_distribution_focal_loss_reduces_as_mmdets(reduction):
    logits, targets = drawn(6, 4), drawn(6, seed=1) * 3
    found, expected = (
        loss(reduction=reduction)(logits, targets)
        for loss in (DistributionFocalLoss, MMDetDistributionFocalLoss)
    )
    torch.testing.assert_close(found, expected)
