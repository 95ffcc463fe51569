"""Where the ImageNet weights of backbones are."""

import re

from mmengine.runner.checkpoint import get_external_models, get_torchvision_models

# Names that are not torchvision's: as mmdet's configurations call them, after open-mmlab://
_OPEN_MMLAB = {
    "resnet50_caffe": "detectron2/resnet50_caffe",
    "resnet50_caffe_detectron": "detectron/resnet50_caffe",
    "resnet101_caffe": "detectron2/resnet101_caffe",
    "resnext101_32x4d": "resnext101_32x4d",
    "resnext101_64x4d": "resnext101_64x4d",
}


def address(name: str) -> tuple[str, str]:
    """Where mmdet's configurations take weights from, and the start of their sha256 (empty if unknown).

    Args:
        name: such as resnet50 or resnet50_caffe.
    """
    if name in _OPEN_MMLAB:
        url = get_external_models()[_OPEN_MMLAB[name]]
    else:  # torchvision's first ones, which the paper's code used, have the plain name
        url = get_torchvision_models()[name]
    digest = re.search(r"-([0-9a-f]{8,})\.", url)
    return url, digest.group(1) if digest else ""
