"""NoisyAnchor: soft labels and weights from how clean a positive anchor is.

Paper: Li et al., "Learning from Noisy Anchors for One-stage Object Detection", CVPR 2020. The paper's
cleanliness of a positive is `alpha * loc + (1 - alpha) * cls`, its weight
`alpha * f(loc) + (1 - alpha) * f(cls)` with `f(x) = 1 / (1 - x)`; loc is the IoU of the regressed box
with its object, cls the score of the object's class. The normalisations below are those of the authors'
code (henrylee2570/NoisyAnchor, `detectron2/modeling/meta_arch/retinanet_noisy.py` and `matcher.py`).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 1e-7


def top_n_assign(ious: Tensor, top_n: int) -> Tensor:
    """Make the anchors of largest IoU with each object positive.

    A positive belongs to the object it overlaps most, not always the one that chose it, as in the code.
    Unlike there, an anchor that touches no object is never positive: it would go to the first object.

    Args:
        ious: [G, A] of objects with anchors.
        top_n: anchors an object chooses.

    Returns:
        [A] object of each anchor, -1 for negatives
    """
    G, A = ious.shape
    gt_index = torch.full((A,), -1, device=ious.device)
    if G == 0:
        return gt_index
    best, owner = ious.max(0)  # [A], [A]
    chosen = torch.zeros(A, dtype=torch.bool, device=ious.device)
    chosen[ious.topk(min(top_n, A), dim=1).indices.flatten()] = True
    chosen &= best > 0
    gt_index[chosen] = owner[chosen]
    return gt_index


def soft_labels(loc: Tensor, cls: Tensor, alpha: float) -> Tensor:
    """Cleanliness of an image's positives as classification targets.

    Both parts are divided by their mean, then the mixture is stretched to [mean(loc), 1].

    Args:
        loc: [P] IoU of the predicted boxes with their objects.
        cls: [P] scores of the objects' classes.
        alpha: share of loc.

    Returns:
        [P]; mean(loc) for all where the mixture has one value only
    """
    if len(loc) == 0:
        return loc
    mixture = alpha * _by_mean(loc) + (1 - alpha) * _by_mean(cls)
    low, high = mixture.aminmax()
    return loc.mean() + (mixture - low) * (1 - loc.mean()) / (high - low).clamp(min=EPS)


def sample_weights(loc: Tensor, cls: Tensor, alpha: float) -> Tensor:
    """Weights of an image's positives, before `keep_sum`; arguments as `soft_labels`."""
    if len(loc) == 0:
        return loc
    inverse = [1 / (1 - x).clamp(min=EPS) for x in (loc, cls)]
    return alpha * _by_mean(inverse[0]) + (1 - alpha) * _by_mean(inverse[1])


def keep_sum(loss: Tensor, weights: Tensor) -> Tensor:
    """Weight elements of a loss such that their sum stays what it was.

    Args:
        loss: elements, of any shape.
        weights: broadcastable to it, without gradient.
    """
    weighted = loss * weights
    scale = loss.detach().sum() / weighted.detach().sum().clamp(min=torch.finfo(loss.dtype).tiny)
    return weighted * scale


def soft_focal_loss(logits: Tensor, target: Tensor, gamma: float, alpha: float) -> Tensor:
    """Focal loss for soft targets, elementwise.

    `-t a (1 - p)^gamma log p - (1 - t)(1 - a) p^gamma log(1 - p)`: each term keeps the modulation it has
    in the focal loss, so the minimum over p is not at t, unlike QFL's.

    Args:
        logits: any shape; p is their sigmoid.
        target: t, same shape, in [0, 1].
        gamma: focusing parameter.
        alpha: weight a of the first term.
    """
    p = logits.sigmoid()
    positive = -alpha * target * (1 - p).pow(gamma) * F.logsigmoid(logits)
    negative = -(1 - alpha) * (1 - target) * p.pow(gamma) * F.logsigmoid(-logits)
    return positive + negative


def _by_mean(x: Tensor) -> Tensor:
    return x / x.mean().clamp(min=EPS)
