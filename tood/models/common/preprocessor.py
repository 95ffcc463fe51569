"""Images and their objects on the way to a device: three tensors per replica, for any number of objects."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from mmdet.models.data_preprocessors import DetDataPreprocessor as MMDetDataPreprocessor
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import get_box_tensor
from mmengine.structures import InstanceData
from torch import Tensor

from tood.models.common.registry import MODELS

_KINDS = ("gt_instances", "ignored_instances")


class Collated(NamedTuple):
    """B images with their N objects and regions to be ignored, in few tensors."""

    images: Tensor  # [B, 3, H, W] uint8, each at the top left and zeros around it
    boxes: Tensor  # [N, 4] (x1, y1, x2, y2), pixels: objects of an image, its regions, then the next image's
    labels: Tensor  # [N] int64
    counts: list[int]  # [2 * B] the objects and the regions of each image
    sizes: list[tuple[int, int]]  # (height, width) of each image
    metas: list[dict]  # of each image, as mmdet's


def collate(samples: Sequence[dict]) -> Collated:
    """Put images of any sizes together; of a sample only the image, boxes and labels are kept.

    Args:
        samples: `inputs` [3, h, w] and `data_samples`, as mmdet's `PackDetInputs` gives them.
    """
    inputs = [sample["inputs"] for sample in samples]
    sizes = [(image.shape[1], image.shape[2]) for image in inputs]
    height, width = (max(sides) for sides in zip(*sizes, strict=True))
    images = inputs[0].new_zeros(len(inputs), 3, height, width)
    for place, image, (h, w) in zip(images, inputs, sizes, strict=True):
        place[:, :h, :w] = image
    objects = [getattr(sample["data_samples"], kind, {}) for sample in samples for kind in _KINDS]
    boxes = [get_box_tensor(each["bboxes"]) if "bboxes" in each else torch.zeros(0, 4) for each in objects]
    labels = [each["labels"] if "labels" in each else torch.zeros(0, dtype=torch.long) for each in objects]
    counts, metas = [len(each) for each in boxes], [sample["data_samples"].metainfo for sample in samples]
    return Collated(images, torch.cat(boxes), torch.cat(labels), counts, sizes, metas)


@MODELS.register_module()
class DetDataPreprocessor(MMDetDataPreprocessor):
    """mmdet's preprocessor, same configuration and result, but the host does not wait for a GPU.

    mmdet's class copies each tensor of each image from memory that is not pinned, and waits each time.

    Raises:
        ValueError: it is to treat masks, segmentations, or batches.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.pad_mask or self.pad_seg or self.batch_augments is not None:
            raise ValueError(
                "model.data_preprocessor: tood.DetDataPreprocessor knows images and boxes alone; remove "
                "pad_mask, pad_seg and batch_augments"
            )

    def forward(self, data: Collated | dict, training: bool = False) -> dict:
        """What a detector takes, on its device.

        Args:
            data: of `collate`; or lists of `inputs` and `data_samples`, as mmdet collates.
            training: without effect, as in mmdet without batch augments.

        Returns:
            inputs [B, 3, H, W], normalised and padded; data_samples, with `pad_shape` and `batch_input_shape`
        """
        if not isinstance(data, Collated):
            pairs = zip(data["inputs"], data["data_samples"], strict=True)
            data = collate([{"inputs": image, "data_samples": sample} for image, sample in pairs])
        divisor = self.pad_size_divisor
        padded = [tuple(math.ceil(side / divisor) * divisor for side in size) for size in data.sizes]
        shape = tuple(max(sides) for sides in zip(*padded, strict=True))
        images, boxes, labels = (sent(tensor, self.device) for tensor in data[:3])
        # As in mmdet, in double where the model is
        dtype = torch.promote_types(torch.float32, self.mean.dtype if self._enable_normalize else torch.uint8)
        inputs = torch.full((len(images), 3, *shape), float(self.pad_value), dtype=dtype, device=self.device)
        for place, image, (h, w) in zip(inputs, images, data.sizes, strict=True):
            own, pixels = place[:, :h, :w], image[:, :h, :w]
            own.copy_(pixels.flip(0) if self._channel_conversion else pixels)
            if self._enable_normalize:
                own.sub_(self.mean).div_(self.std)
        objects = [
            InstanceData(bboxes=own_boxes, labels=own_labels)
            for own_boxes, own_labels in zip(boxes.split(data.counts), labels.split(data.counts), strict=True)
        ]
        samples = []
        for meta, pad_shape, *kinds in zip(data.metas, padded, objects[::2], objects[1::2], strict=True):
            sample = DetDataSample(metainfo=meta | {"batch_input_shape": shape, "pad_shape": pad_shape})
            sample.gt_instances, sample.ignored_instances = kinds
            samples.append(sample)
        return {"inputs": inputs, "data_samples": samples}


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor of the host to the device; the host does not wait."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
