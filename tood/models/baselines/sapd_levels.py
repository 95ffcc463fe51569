"""SAPD's selection of pyramid levels: the level of least loss, and a network that learns to predict it.

`sapd.py` names the origin of each part.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

from tood.models.common.losses import one_hot

ROI_SIZE = 7  # cells of a RoI's side; three convolutions reduce them to one
ROI_SAMPLES = 2  # per side of a cell


def level_losses(losses: Tensor, objects: Tensor, levels: Tensor, shape: tuple[int, int]) -> Tensor:
    """Mean loss of each object on each level.

    Args:
        losses: [P] of pairs of an object and a point.
        objects: [P].
        levels: [P] of the points.
        shape: numbers of objects G and of levels L.

    Returns:
        [G, L], infinite where the object has no pair
    """
    G, L = shape
    place = objects * L + levels  # [P]
    total = losses.new_zeros(G * L).index_add(0, place, losses)
    number = losses.new_zeros(G * L).index_add(0, place, torch.ones_like(losses))
    return (total / number).where(number > 0, torch.inf).view(G, L)


def least_level(losses: Tensor) -> Tensor:
    """[G] the level of least loss of losses [G, L], -1 where all are infinite."""
    least, level = losses.min(1)
    return level.where(least != torch.inf, -1)  # nan stays nan


def hard_level_weights(level: Tensor, levels: int) -> Tensor:
    """[G, levels] 1 for each object's level of `level` [G], of which -1 is none, and 0 for the others."""
    return one_hot(level, levels).float()


def soft_level_weights(probabilities: Tensor, top: int) -> Tensor:
    """[G, L] the `top` largest probabilities [G, L] of each object as they are, and 0 for the others."""
    largest = probabilities.topk(min(top, probabilities.shape[1]), dim=1)
    return torch.zeros_like(probabilities).scatter(1, largest.indices, largest.values)


class LevelSelection(nn.Module):
    """Predicts from an object's features on all levels how much each level suits it.

    Args:
        in_channels: of the pyramid.
        feat_channels: of the hidden layers.
        strides: of the levels, pixels.
    """

    def __init__(self, in_channels: int, feat_channels: int, strides: list[int]) -> None:
        super().__init__()
        self.strides = strides
        channels = [len(strides) * in_channels, feat_channels, feat_channels, feat_channels]
        self.convs = nn.ModuleList(nn.Conv2d(*pair, 3) for pair in pairwise(channels))
        self.fc = nn.Linear(feat_channels, len(strides))

    def forward(self, features: list[Tensor], gt_boxes: list[Tensor]) -> Tensor:
        """Logits [N, L] of the levels for all objects of the batch, one image after the other.

        Args:
            features: levels of [B, in_channels, H, W].
            gt_boxes: [G, 4] of each image, pixels.
        """
        x = torch.cat(
            [
                roi_align(level, gt_boxes, ROI_SIZE, 1 / stride, ROI_SAMPLES, aligned=True)
                for level, stride in zip(features, self.strides, strict=True)
            ],
            1,
        )  # [N, L * in_channels, 7, 7]
        for conv in self.convs:
            x = conv(x).relu()  # 7 -> 5 -> 3 -> 1
        return self.fc(x.flatten(1))
