"""IQDet's quality distribution: a mixture of Gaussians over an object's box on each level of the pyramid.

`iqdet.py` names the origin of each part.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn
from torchvision.ops import roi_align

ROI_SIZE = 7  # cells of a RoI's side, as a box head of two stages has them
ROI_SAMPLES = 2  # per side of a cell
LEAST_DEVIATION = 0.05  # of a Gaussian, in halves of the box: a narrower one lies between the points
LEAST_SIDE = 1.0  # pixels; offsets in boxes without area stay finite
PARAMETERS = 5  # of a Gaussian: mean and deviation on two axes, weight


class Mixture(NamedTuple):
    """Gaussians in coordinates of an object's box, which is [-1, 1] on both axes."""

    means: Tensor  # [..., K, 2]
    deviations: Tensor  # [..., K, 2]
    log_weights: Tensor  # [..., K] of weights whose sum is less than 1


def mixture_of(outputs: Tensor) -> Mixture:
    """The mixture of a network's outputs [..., 5 K]: means, then deviations, then weights.

    The weights are a softmax in which "no Gaussian", with a logit of 0, has a share. If their sum were 1, a
    mixture could only become low by moving its Gaussians into the corners of the box and narrowing them. This
    would happen while no box fits, and could not be undone: tanh and softplus have almost no slope there.
    """
    K = outputs.shape[-1] // PARAMETERS
    means, deviations, logits = outputs.split([2 * K, 2 * K, K], dim=-1)
    return Mixture(
        means.unflatten(-1, (K, 2)).tanh(),
        F.softplus(deviations.unflatten(-1, (K, 2))) + LEAST_DEVIATION,
        F.pad(logits, (0, 1)).log_softmax(-1)[..., :-1],
    )


def offsets_in_boxes(positions: Tensor, boxes: Tensor) -> Tensor:
    """[P, 2] where positions [P, 2] are in boxes [P, 4]: 0 at the centre, 1 at the right and lower side."""
    corners, opposite = boxes[:, :2], boxes[:, 2:]
    return (2 * positions - corners - opposite) / (opposite - corners).clamp(min=LEAST_SIDE)


def log_quality_at(mixture: Mixture, offsets: Tensor) -> Tensor:
    """Logarithm of the value of mixtures [..., K] at offsets [..., 2].

    The Gaussians are not normalised: each is 1 at its mean, so the value is in [0, 1] like an IoU.

    Returns:
        [...]
    """
    distance = (offsets[..., None, :] - mixture.means) / mixture.deviations  # [..., K, 2]
    return (mixture.log_weights - distance.square().sum(-1) / 2).logsumexp(-1)


def quality_loss(log_quality: Tensor, ious: Tensor, owners: Tensor, objects: int) -> Tensor:
    """Binary cross entropy of the mixtures with the IoU of the predicted boxes, mean over an object's points.

    It uses logarithms, because a value that has become 0 has no gradient.

    Args:
        log_quality: [P] of pairs of an object and a point.
        ious: [P] of the boxes predicted at the points with the objects.
        owners: [P] the objects.
        objects: number G of the image.

    Returns:
        [G], 0 for objects without points
    """
    below_one = log_quality.clamp(max=-torch.finfo(log_quality.dtype).eps)
    loss = -(ious * log_quality + (1 - ious) * (-below_one.expm1()).log())
    number = loss.new_zeros(objects).index_add(0, owners, torch.ones_like(loss))
    return loss.new_zeros(objects).index_add(0, owners, loss) / number.clamp(min=1)


class QualityEncoder(BaseModule):
    """Predicts an object's mixture on each level from its features there; levels share the weights.

    Initialised as mmdet's box head with two hidden layers: Xavier's, and a small last layer, so that at first
    all mixtures are similar, highest at the centre of the object.

    Args:
        in_channels: of the pyramid.
        hidden: width of the two hidden layers.
        gaussians: K of the mixture.
        strides: of the levels, pixels.
    """

    def __init__(self, in_channels: int, hidden: int, gaussians: int, strides: list[int]) -> None:
        super().__init__(
            init_cfg=dict(
                type="Xavier",
                layer="Linear",
                distribution="uniform",
                override=dict(type="Normal", name="output", std=0.01),
            )
        )
        self.strides = strides
        self.layers = nn.Sequential(
            nn.Linear(in_channels * ROI_SIZE**2, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU()
        )
        self.output = nn.Linear(hidden, PARAMETERS * gaussians)

    def forward(self, features: list[Tensor], gt_boxes: list[Tensor]) -> Tensor:
        """Outputs [N, L, 5 K] for all objects of the batch, one image after the other; see `mixture_of`.

        Args:
            features: levels of [B, in_channels, H, W].
            gt_boxes: [G, 4] of each image, pixels.
        """
        rois = torch.stack(
            [
                roi_align(level, gt_boxes, ROI_SIZE, 1 / stride, ROI_SAMPLES, aligned=True).flatten(1)
                for level, stride in zip(features, self.strides, strict=True)
            ],
            1,
        )  # [N, L, in_channels * 49]: not pooled, as the place of a feature matters
        return self.output(self.layers(rois))
