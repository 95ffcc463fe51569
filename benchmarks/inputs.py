"""Images, objects and predictions like those of a training on COCO that has come some way.

Sizes of objects are log-uniform, which gives about COCO's shares of small, medium and large ones; crowds have
smaller objects, as COCO's have. Most scores are far below 0.05. Within an object, at the level of its size,
the score of its class is high and boxes are near the object's, with noise.
"""

import math
from typing import NamedTuple

import torch
from mmengine.structures import InstanceData
from torch import Tensor

STRIDES = (8, 16, 32, 64, 128)
CLASSES = 80
SMALLEST, LARGEST = 10.0, 400.0  # sides of objects in pixels
CROWD = 50  # from so many objects on they become smaller
PRESENT = 4  # classes per image at most


class Predictions(NamedTuple):
    """Of a batch, with what was to be found."""

    scores: list[Tensor]  # levels of [B, C, H, W]
    boxes: list[Tensor]  # levels of [B, 4, H, W] in strides
    gts: list[InstanceData]
    metas: list[dict]

    def leaves(self) -> tuple[list[Tensor], list[Tensor]]:
        """Scores and boxes as the ends of a graph of their own."""
        return tuple(
            [level.detach().requires_grad_() for level in kind] for kind in (self.scores, self.boxes)
        )


def grids(size: tuple[int, int]) -> list[tuple[int, int]]:
    """Height and width of each level's map, of an image of this height and width."""
    return [(-(-size[0] // stride), -(-size[1] // stride)) for stride in STRIDES]


def objects(number: int, size: tuple[int, int], generator: torch.Generator) -> InstanceData:
    """Objects of one image."""
    height, width = size
    crowding = min(1.0, math.sqrt(CROWD / max(1, number)))
    side = torch.empty(number).uniform_(math.log(SMALLEST), math.log(LARGEST), generator=generator).exp()
    side = (side * crowding).clamp(min=SMALLEST)
    ratio = (torch.randn(number, generator=generator) * 0.4).exp()
    sides = torch.stack([(side * ratio).clamp(max=0.9 * width), (side / ratio).clamp(max=0.9 * height)], 1)
    corner = torch.rand(number, 2, generator=generator) * (torch.tensor([width, height]) - sides)
    present = torch.randint(CLASSES, (PRESENT,), generator=generator)
    labels = present[torch.randint(PRESENT, (number,), generator=generator)]
    return InstanceData(bboxes=torch.cat([corner, corner + sides], 1), labels=labels)


def predictions(batch: int, number: int, size: tuple[int, int], device: torch.device) -> Predictions:
    """Predictions of a batch with this number of objects in each image; the same at each call."""
    generator = torch.Generator().manual_seed(batch * 10_000 + number)
    gts = [objects(number, size, generator) for _ in range(batch)]
    scores, boxes = [], []
    for stride, (h, w) in zip(STRIDES, grids(size), strict=True):
        score = (torch.randn(batch, CLASSES, h, w, generator=generator) * 1.2 - 6.5).sigmoid()
        centres = torch.stack(torch.meshgrid(torch.arange(w), torch.arange(h), indexing="xy")) * stride
        half = 4 * stride * (torch.randn(batch, 2, h, w, generator=generator) * 0.4).exp()
        box = torch.cat([centres - half, centres + half], 1)  # [B, 4, h, w]
        for b, gt in enumerate(gts):
            for corners, label in zip(gt.bboxes.tolist(), gt.labels.tolist(), strict=True):
                x1, y1, x2, y2 = corners
                side = math.sqrt((x2 - x1) * (y2 - y1))
                distance = abs(math.log2(side / stride / 4))  # in levels, from the one of its size
                rows = slice(math.ceil(y1 / stride), math.floor(y2 / stride) + 1)
                columns = slice(math.ceil(x1 / stride), math.floor(x2 / stride) + 1)
                within = box[b, :, rows, columns]
                if distance < 1.5 and within.numel():
                    noise = torch.randn(within.shape, generator=generator) * 0.12 * side * (1 + distance)
                    box[b, :, rows, columns] = torch.tensor(corners).view(4, 1, 1) + noise
                    logits = torch.randn(within.shape[1:], generator=generator) * 1.2 - 0.5 - distance
                    score[b, label, rows, columns] = logits.sigmoid()
        ordered = torch.cat([torch.minimum(box[:, :2], box[:, 2:] - 1), box[:, 2:]], 1)
        scores.append(score.to(device))
        boxes.append((ordered / stride).to(device))
    gts = [gt.to(device) for gt in gts]
    return Predictions(scores, boxes, gts, [dict(img_shape=size, pad_shape=size)] * batch)


def features(batch: int, size: tuple[int, int], channels: int, device: torch.device) -> list[Tensor]:
    """Pyramid features, levels of [B, channels, H, W]."""
    generator = torch.Generator().manual_seed(batch)
    return [torch.randn(batch, channels, h, w, generator=generator).to(device) for h, w in grids(size)]
