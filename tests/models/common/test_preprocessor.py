"""What arrives on the device, against mmdet's own preprocessor to the last bit."""

import pytest
import torch
from mmdet.models.data_preprocessors import DetDataPreprocessor as MMDetDataPreprocessor
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.structures import InstanceData

from tood.models import DetDataPreprocessor
from tood.models.common.preprocessor import collate

RGB = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True)
BGR = dict(mean=[102.9801, 115.9465, 122.7717], std=[1.0, 1.0, 1.0], bgr_to_rgb=False)
SIZES = ((37, 50), (64, 33), (32, 32))
OBJECTS = ((3, 1), (0, 2), (2, 0))  # and regions to be ignored


def samples(box_type=lambda boxes: boxes) -> list[dict]:
    generator = torch.Generator().manual_seed(0)
    found = []
    for number, (size, counts) in enumerate(zip(SIZES, OBJECTS, strict=True)):
        sample = DetDataSample(
            metainfo=dict(img_id=number, img_shape=size, ori_shape=(9, 9), flip=number == 1)
        )
        for kind, count in zip(("gt_instances", "ignored_instances"), counts, strict=True):
            boxes = box_type(torch.rand(count, 4, generator=generator) * 30)
            labels = torch.randint(5, (count,), generator=generator)
            setattr(sample, kind, InstanceData(bboxes=boxes, labels=labels))
        image = torch.randint(256, (3, *size), generator=generator, dtype=torch.uint8)
        found.append(dict(inputs=image, data_samples=sample))
    return found


def listed(items: list[dict]) -> dict:
    """As mmdet collates."""
    return {key: [item[key] for item in items] for key in items[0]}


@pytest.mark.parametrize("box_type", [lambda boxes: boxes, HorizontalBoxes])
@pytest.mark.parametrize("options", [RGB, BGR], ids=["rgb", "bgr"])
@pytest.mark.parametrize("more", [dict(), dict(pad_size_divisor=32), dict(pad_size_divisor=16, pad_value=7)])
@pytest.mark.parametrize("form", [collate, listed])
def test_inputs_and_samples_are_mmdets(options, more, form, box_type):
    expected = MMDetDataPreprocessor(**options, **more)(listed(samples(box_type)), training=True)
    found = DetDataPreprocessor(**options, **more)(form(samples(box_type)), training=True)
    assert found["inputs"].dtype == torch.float32
    assert torch.equal(found["inputs"], expected["inputs"])
    assert len(found["data_samples"]) == len(SIZES)
    for ours, theirs in zip(found["data_samples"], expected["data_samples"], strict=True):
        assert ours.metainfo == theirs.metainfo
        for kind in ("gt_instances", "ignored_instances"):
            for key in ("bboxes", "labels"):
                one, other = getattr(ours, kind)[key], getattr(theirs, kind)[key]
                assert torch.equal(one, other)
                assert one.dtype == other.dtype


def test_images_of_a_model_in_double_are_in_double_too():
    expected = MMDetDataPreprocessor(**RGB).double()(listed(samples()), training=True)["inputs"]
    found = DetDataPreprocessor(**RGB).double()(collate(samples()))["inputs"]
    assert found.dtype == torch.float64
    assert torch.equal(found, expected)


def test_images_need_no_objects():
    items = [dict(inputs=each["inputs"], data_samples=DetDataSample()) for each in samples()]
    for sample in DetDataPreprocessor(**RGB)(collate(items))["data_samples"]:
        assert sample.gt_instances.bboxes.shape == (0, 4)
        assert sample.gt_instances.labels.dtype == torch.int64


def test_a_replica_is_three_tensors():
    tensors = [each for each in collate(samples()) if isinstance(each, torch.Tensor)]
    assert [tuple(each.shape) for each in tensors] == [(3, 3, 64, 50), (8, 4), (8,)]


@pytest.mark.parametrize("option", [dict(pad_mask=True), dict(pad_seg=True), dict(batch_augments=[])])
def test_what_would_be_left_out_is_refused(option):
    with pytest.raises(ValueError, match="data_preprocessor"):
        DetDataPreprocessor(**RGB, **option)
