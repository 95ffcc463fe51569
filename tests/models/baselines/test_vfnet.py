"""VarifocalNet against mmdet's head, whose compiled operators torchvision stands for; its star by hand."""

import copy

import pytest
import torch
from helpers.mmdet_heads import (
    MMDET_CONFIGS,
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
    SEVERAL,
    configuration,
    features,
    narrow_head,
    objects,
)
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import nn

from tood.models import ModulatedDeformConv2d, VFNetHead

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
VFNET = "vfnet/vfnet_r50_fpn_1x_coco.py"
DCN = pytest.mark.parametrize("dcn", [False, True], ids=["plain", "DCN"])
# The second image is scaled and padded.
SCALED = [METAS[0], {**METAS[1], "scale_factor": (0.5, 0.7)}]


@pytest.fixture(autouse=True, scope="module")
def mmdet_scope():
    init_default_scope("mmdet")


def double_features() -> tuple[torch.Tensor, ...]:
    return tuple(level.double() for level in features())


def pair(dcn: bool):
    """Ours and mmdet's, with the same weights."""
    ours = narrow_head("vfnet.py", dcn_on_last_conv=dcn).double()
    theirs = narrow_mmdet_head(VFNET, dcn_on_last_conv=dcn).double()
    assert [(n, p.shape) for n, p in ours.named_parameters()] == [
        (n, p.shape) for n, p in theirs.named_parameters()
    ]
    theirs.load_state_dict(ours.state_dict(), strict=True)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)
    return ours, theirs


@DCN
@pytest.mark.parametrize(
    "gts",
    [GTS, [objects(), OVERLAPPING], [SEVERAL, objects()], [objects(), objects()]],
    ids=["several", "first empty", "second empty", "empty"],
)
@pytest.mark.usefixtures("double", "torchvision_operators")
def test_losses_and_gradients_are_mmdets(gts, dcn):
    ours, theirs = pair(dcn)
    losses = []
    for head in (ours, theirs):
        losses.append(head.loss_by_feat(*head(double_features()), doubled(gts), METAS))
        sum(losses[-1].values()).backward()
    assert losses[0].keys() == {"loss_cls", "loss_bbox", "loss_bbox_rf"}
    if any(len(gt) for gt in gts):
        assert all(value > 0 for value in losses[0].values())
    assert_same_losses(*losses)
    assert_same_gradients(ours, theirs)


@DCN
@pytest.mark.usefixtures("double", "torchvision_operators")
def test_detections_are_mmdets(dcn):
    ours, theirs = (head.eval() for head in pair(dcn))
    with torch.no_grad():
        outs = [head(double_features()) for head in (ours, theirs)]
        for maps, others in zip(*outs, strict=True):
            for a, b in zip(maps, others, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
        assert_same_detections(*detections(ours, theirs, outs[0], SCALED))


def test_predictions_of_training_are_those_of_testing():
    """Training gives the first distances too; the box is the refined one."""
    head = narrow_head("vfnet.py")
    with torch.no_grad():
        of_training = head(features())
        of_testing = head.eval()(features())
    assert (len(of_training), len(of_testing)) == (3, 2)
    found, expected = (head.dense_by_feat(*outs, batch_img_metas=METAS) for outs in (of_training, of_testing))
    for image, other in zip(found, expected, strict=True):
        for a, b in zip(image, other, strict=True):
            assert torch.equal(a.boxes, b.boxes)
            assert torch.equal(a.scores, b.scores)
    refined = of_testing[1][1][0].flatten(1).T  # left, top, right, bottom in pixels at stride 16
    level = head.dense_by_feat(*of_testing, batch_img_metas=METAS, clip=False)[0][1]
    x, y = torch.arange(10).repeat(8) * 16, torch.arange(8).repeat_interleave(10) * 16
    torch.testing.assert_close(
        level.boxes, torch.stack([x, y, x, y], 1) + refined * torch.tensor([-1, -1, 1, 1])
    )


def test_other_positives_are_refused():
    with pytest.raises(ValueError, match=r"tood\.VFNetHead has the positives of ATSS alone"):
        VFNetHead(5, 16, use_atss=False)


# The star


def test_the_star_samples_nine_points_of_the_box():
    """On maps of their own coordinates each point of the kernel reads where it is: corners, edges, centre."""
    head = narrow_head("vfnet.py")
    stride, (H, W) = 8, (9, 11)
    y, x = (axis.float() for axis in torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij"))
    coordinates = torch.zeros(1, 16, H, W)
    coordinates[0, 0], coordinates[0, 1] = x, y
    left, top, right, bottom = 12.0, 20.0, 4.0, 28.0  # pixels; 1.5, 2.5, .5 and 3.5 cells
    distances = torch.tensor([left, top, right, bottom]).view(1, 4, 1, 1).expand(1, 4, H, W)
    offsets = head.star_dcn_offset(distances, head.gradient_mul, stride)
    expected = [(dy, dx) for dy in (-2.5, 0, 3.5) for dx in (-1.5, 0, 0.5)]
    for layer in (head.vfnet_reg_refine_dconv, head.vfnet_cls_dconv):
        for point, (dy, dx) in enumerate(expected):
            nn.init.zeros_(layer.weight)
            layer.weight.data[0, 0].view(9)[point] = 1
            layer.weight.data[1, 1].view(9)[point] = 1
            read = layer(coordinates, offsets)[0, :2, 4, 5].tolist()
            assert read == pytest.approx([5 + dx, 4 + dy])


def test_the_first_box_learns_a_tenth_through_the_star():
    head = narrow_head("vfnet.py")
    found = []
    for share in (0.1, 1.0):
        head.gradient_mul = share
        head.zero_grad()
        sum(maps.sigmoid().sum() for maps in head(features())[0]).backward()
        found.append(head.vfnet_reg.weight.grad.clone())
    assert found[1].abs().sum() > 0
    torch.testing.assert_close(found[0], found[1] / 10, rtol=1e-4, atol=1e-6)


# Layers and weights


def full_head(dcn: bool, ours: bool) -> nn.Module:
    model = configuration("vfnet.py").model
    config = copy.deepcopy(dict(model.bbox_head)) | dict(dcn_on_last_conv=dcn)
    if not ours:
        config["type"] = "VFNetHead"
    head = MODELS.build({**config, "train_cfg": model.train_cfg, "test_cfg": model.test_cfg})
    torch.manual_seed(3)
    head.init_weights()
    return head


@DCN
def test_initial_weights_are_mmdets(dcn):
    """Plain convolutions N(0, 0.01) but for `vfnet_reg_conv`; the star's wider; DCN uniform, no offset."""
    ours, theirs = (full_head(dcn, ours) for ours in (True, False))
    wide, narrow = (2 / 2304) ** 0.5, (1 / 2304 / 3) ** 0.5
    expected = {
        "vfnet_reg_conv.conv.weight": wide,
        "vfnet_reg_refine_dconv.weight": wide,
        "vfnet_cls_dconv.weight": wide,
        "cls_convs.2.conv.weight": narrow if dcn else 0.01,
        "reg_convs.2.conv.weight": narrow if dcn else 0.01,
    }
    for (name, a), (other, b) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        assert name == other
        if a.dim() == 4 and "conv_offset" not in name:
            assert a.std().item() == pytest.approx(expected.get(name, 0.01), rel=0.05), name
            assert b.std().item() == pytest.approx(expected.get(name, 0.01), rel=0.05), name
            assert a.abs().max().item() == pytest.approx(b.abs().max().item(), rel=0.25), name
        else:  # offsets, biases, scales and normalisation
            assert torch.equal(a, b), name
            assert "conv_offset" not in name or not a.any(), name


def test_deformable_layers():
    """In the tower the last layer alone, of torchvision; without DCN none, but for the star."""
    for dcn, expected in ((False, set()), (True, {"cls_convs.2.conv", "reg_convs.2.conv"})):
        head = full_head(dcn, ours=True)
        found = {name for name, m in head.named_modules() if isinstance(m, ModulatedDeformConv2d)}
        assert found == expected
        assert all(head.get_submodule(name).deform_groups == 1 for name in found)
        assert not any(type(m).__module__.startswith("mmcv.ops") for m in head.modules())


def test_an_unknown_name_does_not_load():
    head = narrow_head("vfnet.py")
    state = head.state_dict() | {"vfnet_new.weight": torch.ones(1)}
    with pytest.raises(RuntimeError, match=r"Unexpected key.*vfnet_new\.weight"):
        head.load_state_dict(state, strict=True)


def test_the_configuration_of_mmdet_builds():
    """Its own file, with our type for its head's: what the row with DCN in both towers needs."""
    file = "vfnet/vfnet_x101-64x4d-mdconv-c3-c5_fpn_ms-2x_coco.py"
    model = Config.fromfile(MMDET_CONFIGS / file).model
    head = MODELS.build({**model.bbox_head, "type": "tood.VFNetHead", "train_cfg": model.train_cfg})
    assert isinstance(head.cls_convs[2].conv, ModulatedDeformConv2d)
