"""The classification losses of TOOD on probabilities: equations 10 and 11, elementwise and summed.

Equation 12 is a GIoU loss weighted by t-hat; mmdet's `GIoULoss` with `weight` is exactly that.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tood.models.common.box_losses import GIoULoss
from tood.models.common.losses import LEAST_LOG, LEAST_VARIANCE, binary_cross_entropy
from tood.models.common.precision import without_autocast
from tood.models.common.registry import MODELS

# Scores that a loss works on at a time. On a CPU the few tensors of this size stay in the cache.
SCORES_AT_ONCE = {"cpu": 2**18}
SCORES_AT_ONCE_ELSEWHERE = 2**26


def task_aligned_focal_loss(scores: Tensor, t_hat: Tensor, gamma: float) -> Tensor:
    """|t_hat - s|^gamma * BCE(s, t_hat) (Eq. 11); with t_hat = 0 this is its term for negatives.

    Args:
        scores: P^align, any shape, in [0, 1].
        t_hat: same shape, 0 but for the class of a positive anchor.
        gamma: focusing parameter.
    """
    return (t_hat - scores).abs().pow(gamma) * binary_cross_entropy(scores, t_hat)


def focal_loss_with_prob(scores: Tensor, target: Tensor, gamma: float, alpha: float) -> Tensor:
    """Focal loss on probabilities, for the warm-up in which targets are 0 or 1 (released code only).

    Args:
        scores: P^align, any shape, in [0, 1].
        target: same shape, 0 or 1.
        gamma: focusing parameter.
        alpha: weight of positives, 1 - alpha of negatives.
    """
    balance = alpha * target + (1 - alpha) * (1 - target)
    return balance * (target - scores).abs().pow(gamma) * binary_cross_entropy(scores, target)


class ScoreTargets(NamedTuple):
    """The scores of a batch whose target is not 0, among those of B images, A anchors and C classes."""

    anchors: Tensor  # [P] int64, b * A + a for anchor a of image b
    labels: Tensor  # [P] int64 in 0..C-1
    targets: Tensor  # [P] in [0, 1]
    positive: Tensor  # [P] bool, False for an entry that is to be ignored; no two others share an anchor


def sum_of_task_aligned_focal_loss(
    scores: Sequence[Tensor], targets: ScoreTargets, weights: Tensor, gamma: float
) -> Tensor:
    """`task_aligned_focal_loss` (Eq. 11) of all scores times the weights of their anchors, summed.

    Args:
        scores: P^align, levels of [B, C, ...] with A anchors in all.
        targets: t-hat of the positives; every other score has the target 0.
        weights: [B, A].
        gamma: focusing parameter.

    Raises:
        RuntimeError: backward is called with `create_graph=True`; there is no second derivative.
    """
    balance = torch.ones_like(targets.targets)
    return _SumOverScores.apply(gamma, balance, 1.0, targets, weights, *scores)


def sum_of_focal_loss_with_prob(
    scores: Sequence[Tensor], targets: ScoreTargets, weights: Tensor, gamma: float, alpha: float
) -> Tensor:
    """`focal_loss_with_prob` of all scores times the weights of their anchors, summed.

    Args:
        scores, targets, weights: as in `sum_of_task_aligned_focal_loss`.
        gamma, alpha: as in `focal_loss_with_prob`.

    Raises:
        RuntimeError: backward is called with `create_graph=True`; there is no second derivative.
    """
    balance = alpha * targets.targets + (1 - alpha) * (1 - targets.targets)
    return _SumOverScores.apply(gamma, balance, 1 - alpha, targets, weights, *scores)


class _SumOverScores(torch.autograd.Function):
    """The sum of a loss over all scores; the gradient comes with the value, and backward scales it."""

    @staticmethod
    def forward(
        ctx: Any,
        gamma: float,
        balance: Tensor,
        factor: float,
        targets: ScoreTargets,
        weights: Tensor,
        *levels: Tensor,
    ) -> Tensor:
        ctx.shapes = [level.shape for level in levels]
        with without_autocast(levels[0]):
            total, gradient = _sum_and_gradient(gamma, balance, factor, targets, weights, levels)
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # create_graph=True; the gradient would wrongly count as a constant
            raise RuntimeError(
                "this sum has no second derivative: call backward without create_graph=True, or sum "
                "task_aligned_focal_loss or focal_loss_with_prob, which are elementwise and have one"
            )
        (gradient,) = ctx.saved_tensors
        parts = (gradient * grad.to(gradient))[:-1].split([shape.numel() for shape in ctx.shapes])
        return *[None] * 5, *(part.view(shape) for part, shape in zip(parts, ctx.shapes, strict=True))


def _sum_and_gradient(
    gamma: float,
    balance: Tensor,
    factor: float,
    targets: ScoreTargets,
    weights: Tensor,
    levels: Sequence[Tensor],
) -> tuple[Tensor, Tensor]:
    """|t - s|^gamma * BCE(s, t) times a factor and a weight, summed over all scores, and its derivatives.

    Nearly all targets are 0, and there the loss is s^gamma * -log(1 - s), with the derivative

        s^(gamma - 1) * (s / (1 - s) - gamma * log(1 - s)).

    One pass finds both for all scores, piece by piece, so that intermediate values stay in the cache. The few
    positives are corrected afterwards. Logarithms and quotients have the bounds of torch's binary
    cross-entropy.

    Args:
        gamma: focusing parameter.
        balance: [P] factor of the loss where the target is not 0.
        factor: where it is.
        targets, weights: as in `sum_of_task_aligned_focal_loss`.
        levels: scores, [B, C, ...] each.

    Returns:
        the sum; the derivatives, level after level, and one element more that means nothing
    """
    B, C = levels[0].shape[:2]
    levels = [level.flatten(2).contiguous() for level in levels]  # [B, C, H*W] each
    sizes = [level.shape[2] for level in levels]
    dtype = torch.promote_types(levels[0].dtype, torch.float32)
    weights = weights.to(dtype)
    gradient = levels[0].new_empty(B * C * sum(sizes) + 1)
    gradients = gradient[:-1].split([level.numel() for level in levels])
    sums = []
    for level, out, w in zip(levels, gradients, weights.split(sizes, 1), strict=True):
        for images, classes in _pieces(level):
            sums.append(
                _negative(
                    level[images, classes].to(dtype),
                    w[images, None] * factor,
                    gamma,
                    out.view(level.shape)[images, classes],
                )
            )

    s, places = _find(targets, levels)  # [P] each
    s = s.to(dtype)
    t = targets.targets.to(dtype)
    w = weights.flatten()[targets.anchors]
    gradient[places] = (balance * w * _derivative(s, t, gamma)).to(gradient)
    instead = balance * task_aligned_focal_loss(s, t, gamma)
    instead -= factor * task_aligned_focal_loss(s, torch.zeros_like(s), gamma)
    sums.append(torch.where(targets.positive, w * instead, 0).sum())
    return torch.stack(sums).sum(dtype=torch.float64).to(dtype), gradient


def _negative(s: Tensor, weights: Tensor, gamma: float, derivative: Tensor) -> Tensor:
    """The sum over one piece as if all targets were 0; its derivative goes into `derivative`."""
    log = s.neg().log1p_().clamp_(min=LEAST_LOG)  # log(1 - s)
    quotient = s / (1 - s).clamp_(min=LEAST_VARIANCE)
    power = _power_less_one(s, gamma).mul_(weights)
    derivative.copy_(quotient.sub_(log, alpha=gamma).mul_(power))
    return -log.mul_(s).mul_(power).sum()


def _derivative(s: Tensor, t: Tensor, gamma: float) -> Tensor:
    """The derivative of `task_aligned_focal_loss` by the score, elementwise."""
    difference = s - t
    quotient = difference.abs() / (s * (1 - s)).clamp(min=LEAST_VARIANCE)
    power = _power_less_one(difference.abs(), gamma)
    return difference.sign() * power * (gamma * binary_cross_entropy(s, t) + difference.abs() * quotient)


def _power_less_one(x: Tensor, gamma: float) -> Tensor:
    """x^(gamma - 1), but finite at x = 0, where it is multiplied by 0."""
    return (x if gamma >= 1 else x.clamp(min=torch.finfo(x.dtype).tiny)).pow(gamma - 1)


def _pieces(level: Tensor) -> Iterator[tuple[slice, slice]]:
    """Images and classes of the pieces of a level [B, C, H*W]: whole images, or some classes of one."""
    B, C, size = level.shape
    most = SCORES_AT_ONCE.get(level.device.type, SCORES_AT_ONCE_ELSEWHERE)
    images = max(1, most // (C * size))
    classes = C if C * size <= most else max(1, most // size)
    for b in range(0, B, images):
        for c in range(0, C, classes):
            yield slice(b, b + images), slice(c, c + classes)


def _find(targets: ScoreTargets, levels: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The score of each target, and its place when levels [B, C, H*W] are flattened one after another.

    Returns:
        [P]; [P] int64, the place behind all levels for a target that is to be ignored
    """
    C = levels[0].shape[1]
    A = sum(level.shape[2] for level in levels)
    image, a = targets.anchors // A, targets.anchors % A
    place = torch.full_like(a, sum(level.numel() for level in levels))
    s = levels[0].new_zeros(len(a))
    begin = offset = 0
    for level in levels:
        size = level.shape[2]
        here = (a >= begin) & (a < begin + size)
        local = torch.where(here, (image * C + targets.labels) * size + a - begin, 0)
        s = torch.where(here, level.flatten()[local], s)
        place = torch.where(here & targets.positive, local + offset, place)
        begin, offset = begin + size, offset + level.numel()
    return s, place


@MODELS.register_module()
class LogDistanceGIoULoss(GIoULoss):
    """GIoU of boxes given as logarithms of their four distances from one point, as FoveaBox predicts them.

    Point and unit are the same for prediction and target, and GIoU depends on neither.
    """

    def forward(self, pred: Tensor, target: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """`pred` and `target` [A, 4], logarithms of (left, top, right, bottom)."""
        return super().forward(_around_origin(pred), _around_origin(target), *args, **kwargs)


def _around_origin(log_distances: Tensor) -> Tensor:
    distances = log_distances.exp()
    return torch.cat([-distances[:, :2], distances[:, 2:]], 1)  # [A, 4] (x1, y1, x2, y2)
