"""Towers with biases and a deformable last layer: mmdet's arithmetic with mmcv's layer, authors' weights."""

import copy

import mmcv.ops
import pytest
import torch
from helpers.mmdet_heads import (
    assert_same_detections,
    assert_same_gradients,
    assert_same_losses,
    detections,
    doubled,
    narrow_mmdet_head,
)
from helpers.point_heads import (
    GTS,
    METAS,
    OVERLAPPING,
    configuration,
    features,
    narrow_head,
    objects,
)
from mmdet.registry import MODELS
from mmengine.registry import init_default_scope
from torch import nn

from tood.models import ModulatedDeformConv2d
from tood.models.common.towers import add_biases

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
# Our file: mmdet's
HEADS = {
    "atss_r101": "atss/atss_r101_fpn_1x_coco.py",
    "paa_r101": "paa/paa_r101_fpn_2x_coco.py",
    "fcos_imprv_r101": "fcos/fcos_r50-caffe_fpn_gn-head-center-normbbox-centeronreg-giou_1x_coco.py",
}
# Losses that are not mmdet's have tests of their own: test_paa_released.py, test_fcos.py.
MMDETS = {"paa_r101": dict(type="tood.PAAHead"), "fcos_imprv_r101": dict(loss_bbox=dict(type="GIoULoss"))}
DCN = pytest.mark.parametrize("dcn", [False, True], ids=["plain", "DCN"])
# The second image is scaled and padded.
SCALED = [METAS[0], {**METAS[1], "scale_factor": (0.5, 0.7)}]


@pytest.fixture(autouse=True, scope="module")
def mmdet_scope():
    init_default_scope("mmdet")


def double_features() -> tuple[torch.Tensor, ...]:
    return tuple(level.double() for level in features())


def towers(head: nn.Module) -> list[nn.ModuleList]:
    return [head.cls_convs, head.reg_convs]


def pair(name: str, dcn: bool):
    """Ours, and mmdet's with the same weights, whose ATSS and PAA get biases and mmcv's layer by hand."""
    ours = narrow_head(f"{name}.py", dcn_on_last_conv=dcn, **MMDETS.get(name, {})).double()
    if name == "fcos_imprv_r101":
        theirs = narrow_mmdet_head(HEADS[name], dcn_on_last_conv=dcn)
    else:
        theirs = narrow_mmdet_head(HEADS[name], anchor_generator=dict(center_offset=0.5))
        for tower in towers(theirs):
            for layer in tower:
                layer.conv = nn.Conv2d(16, 16, 3, padding=1)
            if dcn:
                tower[-1].conv = mmcv.ops.ModulatedDeformConv2dPack(16, 16, 3, padding=1)
        theirs.assigner = ours.assigner
    theirs = theirs.double()
    assert [(n, p.shape) for n, p in ours.named_parameters()] == [
        (n, p.shape) for n, p in theirs.named_parameters()
    ]
    theirs.load_state_dict(ours.state_dict(), strict=True)
    return ours, theirs


@DCN
@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize(
    "gts", [GTS, [objects(), OVERLAPPING], [objects(), objects()]], ids=["several", "one empty", "empty"]
)
@pytest.mark.usefixtures("double", "torchvision_operators")
def test_losses_and_gradients_are_mmdets(name, gts, dcn):
    ours, theirs = pair(name, dcn)
    losses = []
    for head in (ours, theirs):
        losses.append(head.loss_by_feat(*head(double_features()), doubled(gts), METAS))
        sum(sum(value) if isinstance(value, list) else value for value in losses[-1].values()).backward()
    assert_same_losses(*losses)
    assert_same_gradients(ours, theirs)
    if any(len(gt) for gt in gts):
        for tower in towers(ours):
            assert all(layer.conv.bias.grad.abs().sum() > 0 for layer in tower)


@DCN
@pytest.mark.parametrize("name", ["atss_r101", "fcos_imprv_r101"])  # PAA's are in test_schemes.py
@pytest.mark.usefixtures("double", "torchvision_operators")
def test_detections_are_mmdets(name, dcn):
    ours, theirs = (head.eval() for head in pair(name, dcn))
    with torch.no_grad():
        outs = [head(double_features()) for head in (ours, theirs)]
        for maps, others in zip(*outs, strict=True):
            for a, b in zip(maps, others, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
        assert_same_detections(*detections(ours, theirs, outs[0], SCALED))


def test_a_bias_that_is_there_stays():
    head = narrow_head("fcos_imprv_r101.py")
    before = [layer.conv.bias for tower in towers(head) for layer in tower]
    for tower in towers(head):
        add_biases(tower)
    assert [layer.conv.bias for tower in towers(head) for layer in tower] == before


@pytest.mark.parametrize("name", ["atss", "paa", "fcos"])
def test_without_the_options_towers_are_mmdets(name):
    head = narrow_head(f"{name}.py")
    for tower in towers(head):
        assert all(type(layer.conv) is nn.Conv2d and layer.conv.bias is None for layer in tower)


# Initial weights


def full_head(file: str, **changes: object) -> nn.Module:
    model = configuration(file).model
    config = copy.deepcopy(dict(model.bbox_head)) | changes
    settings = {key: model.get(key) for key in ("train_cfg", "test_cfg")}
    head = MODELS.build({**config, **settings})
    torch.manual_seed(3)
    head.init_weights()
    return head


@DCN
@pytest.mark.parametrize("name", HEADS)
def test_initial_weights_are_the_authors(name, dcn):
    """N(0, 0.01) for ordinary convolutions and those of offsets; the deformable one itself is uniform.

    Of 256 channels and a 3 x 3 kernel: within 1 / sqrt(2304), which is a standard deviation of .012.
    """
    head = full_head(f"{name}.py", dcn_on_last_conv=dcn)
    drawn = 0
    for key, value in head.named_parameters():
        uniform = dcn and key in ("cls_convs.3.conv.weight", "reg_convs.3.conv.weight")
        if value.dim() == 4:
            drawn += 1
            expected = (1 / 2304 / 3) ** 0.5 if uniform else 0.01
            assert value.std().item() == pytest.approx(expected, rel=0.03), key
            assert abs(value.mean().item()) < 0.0006, key
            widest = value.abs().max().item()
            assert widest <= 1 / 48 if uniform else widest > 0.025, key
        elif key.endswith("cls.bias"):  # prior probability .01
            torch.testing.assert_close(value.sigmoid(), torch.full_like(value, 0.01))
        elif key.endswith("bias"):
            assert not value.any(), key
        else:  # scales and normalisation
            assert (value == 1).all(), key
    assert drawn == 2 * 4 + 3 + 2 * dcn


@pytest.mark.parametrize("name", HEADS)
def test_deformable_layers(name):
    """The last of both towers alone, with one deform group and a bias, of torchvision."""
    head = full_head(f"{name}.py", dcn_on_last_conv=True)
    found = {key for key, module in head.named_modules() if isinstance(module, ModulatedDeformConv2d)}
    assert found == {"cls_convs.3.conv", "reg_convs.3.conv"}
    for key in found:
        layer = head.get_submodule(key)
        assert layer.conv_offset.weight.shape == (27, 256, 3, 3)
        assert layer.bias.shape == (256,)
    assert not any(type(module).__module__.startswith("mmcv.ops") for module in head.modules())
