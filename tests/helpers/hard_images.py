"""Two small images of noise, with objects and crowds that an ordinary batch lacks."""

import torch
from mmengine.structures import InstanceData
from torch import Tensor, nn

# Image sizes (height, width): the second is padded to the first.
SIZE, PADDED = (64, 96), (40, 61)
CLASSES = 5  # of the drawn images


def objects(*boxes: list[float], labels: list[int] | None = None) -> InstanceData:
    """Objects with these boxes (x1, y1, x2, y2), of one class after the other unless labels are given."""
    labels = labels if labels is not None else [number % CLASSES for number in range(len(boxes))]
    return InstanceData(
        bboxes=torch.tensor(boxes, dtype=torch.float).reshape(-1, 4),
        labels=torch.tensor(labels, dtype=torch.long),
    )


def many(number: int) -> InstanceData:
    drawn = torch.rand(number, 4, generator=torch.Generator().manual_seed(0))
    corner, size = drawn[:, :2] * torch.tensor([64, 40]), drawn[:, 2:] * torch.tensor([30, 22]) + 1
    return objects(*torch.cat([corner, corner + size], 1).tolist())


def meta(number: int, img_shape=SIZE, pad_shape=SIZE) -> dict:
    shapes = dict(img_shape=img_shape, pad_shape=pad_shape, ori_shape=img_shape)
    return dict(img_id=number, scale_factor=(1.0, 1.0)) | shapes


METAS = [meta(0), meta(1, PADDED, (48, 64))]
NOTHING, ONE = objects(), objects([10, 12, 50, 44])
SEVERAL = objects([3, 3, 30, 34], [12, 8, 60, 38], [20, 20, 30, 28], [24, 22, 34, 30], labels=[0, 1, 2, 2])
CROWD = objects([0, 0, 40, 40], labels=[1])
# Objects and crowds of two images
CASES = {
    "no objects": ([NOTHING, NOTHING], None),
    "one object": ([ONE, ONE], None),
    "one image has none": ([NOTHING, ONE], None),
    "200 objects": ([many(200), ONE], None),
    "smaller than a stride": ([objects([5.2, 5.2, 6.9, 6.9], [20, 20, 20.001, 20.001]), ONE], None),
    "without area": ([objects([40, 40, 40, 40], [50, 20, 50, 60]), ONE], None),
    "at the border": (
        [objects([0, 0, 10, 12], [86, 54, 96, 64], [0, 20, 96, 24]), objects([41, 25, 61, 40])],
        None,
    ),
    "outside": ([objects([300, 300, 340, 350], [-50, -40, -10, -5]), ONE], None),
    "the whole image": ([objects([0, 0, 96, 64]), objects([0, 0, 61, 40])], None),
    "one upon the other": ([objects(*[[10, 10, 40, 40]] * 30, labels=[1] * 29 + [2]), ONE], None),
    "crowds": ([SEVERAL, NOTHING], [CROWD, CROWD]),
    "crowds alone": ([NOTHING, NOTHING], [CROWD, CROWD]),
}


def images(model: nn.Module) -> tuple[list[Tensor], ...]:
    """What a head makes of two images of noise."""
    inputs = torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    return model.bbox_head(model.extract_feat(inputs))
