"""Deformable convolutions: mmcv's arithmetic, names and initial weights, from torchvision."""

import mmcv.ops
import pytest
import torch
import torchvision.ops
from mmdet.models.backbones import ResNet
from mmdet.models.dense_heads import ATSSHead
from mmengine.runner.checkpoint import load_state_dict
from torch import nn
from torch.nn.functional import grid_sample

from tood.models.common import deformable
from tood.models.common.deformable import deform_conv2d
from tood.models.common.layers import DeformConv2d, ModulatedDeformConv2d, rename_offsets
from tood.models.tood.t_head import THead

PAIRS = [
    pytest.param(DeformConv2d, mmcv.ops.DeformConv2dPack, id="DCN"),
    pytest.param(ModulatedDeformConv2d, mmcv.ops.ModulatedDeformConv2dPack, id="DCNv2"),
]
LAYERS = [pytest.param(DeformConv2d, id="DCN"), pytest.param(ModulatedDeformConv2d, id="DCNv2")]
# Of 256 channels and a 3 x 3 kernel: a uniform distribution within sqrt(6 / n) or 1 / sqrt(n), n = 9 * 256
WIDE, NARROW = (2 / 2304) ** 0.5, (1 / 2304 / 3) ** 0.5


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("layer", "theirs"), PAIRS)
@pytest.mark.parametrize(
    "options",
    [
        dict(padding=1),
        dict(padding=1, deform_groups=2),
        dict(padding=1, stride=2, groups=4),
        dict(padding=2, dilation=2, groups=2, deform_groups=4),
    ],
    ids=str,
)
def test_equals_mmcv(layer, theirs, options, torchvision_operators):
    """Names and order of parameters; the order of offsets and masks; values and gradients."""
    theirs, ours = (kind(8, 4, 3, bias=False, **options) for kind in (theirs, layer))
    nn.init.normal_(theirs.conv_offset.weight, std=0.2)
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in theirs.named_parameters()]
    ours.load_state_dict(theirs.state_dict(), strict=True)
    results = []
    for module in (ours.double(), theirs.double()):
        x = rand(2, 8, 7, 9).requires_grad_()
        out = module(x)
        (out * rand(*out.shape, seed=1)).sum().backward()
        results.append([out, x.grad, *(parameter.grad for parameter in module.parameters())])
    for a, b in zip(*results, strict=True):
        assert b.abs().sum() > 0
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("size", [(12, 16), (100, 67), (5, 7)], ids=str)
def test_offsets_that_begin_at_zero_have_the_gradient_of_torchvision(size, dtype):
    """Between two pixels a bilinear map has a kink; of its two derivatives theirs is the one behind it."""
    gradients = []
    for function in (deform_conv2d, torchvision.ops.deform_conv2d):
        offset = torch.zeros(1, 18, *size, dtype=dtype, requires_grad=True)
        out = function(
            rand(1, 3, *size).to(dtype), offset, rand(4, 3, 3, 3, seed=2).to(dtype), padding=(1, 1)
        )
        (out * rand(*out.shape, seed=1).to(dtype)).sum().backward()
        gradients.append(offset.grad)
    ours, theirs = gradients
    assert (ours - theirs).abs().max() < 1e-3 * theirs.abs().max()


@pytest.mark.parametrize("size", [(1, 6), (6, 1), (5, 7)], ids=str)
@pytest.mark.parametrize("masked", [False, True], ids=["", "mask"])
def test_points_outside_count_as_in_torchvision(size, masked):
    offset, weight, bias = rand(2, 36, *size) * 4, rand(4, 3, 3, 3), rand(4)
    mask = rand(2, 18, *size).sigmoid() if masked else None
    results = []
    for function in (deform_conv2d, torchvision.ops.deform_conv2d):
        leaves = [t.clone().requires_grad_() for t in (rand(2, 6, *size), offset, weight, bias)]
        out = function(*leaves, (1, 1), (1, 1), (1, 1), mask)
        (out * rand(*out.shape, seed=1)).sum().backward()
        results.append([out, *(leaf.grad for leaf in leaves)])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("masked", [False, True], ids=["", "mask"])
@pytest.mark.parametrize("groups", [1, 16, 64])
def test_one_product_for_all_groups_equals_torchvision(groups, masked):
    """Values, and gradients of input, offsets, weights, bias and mask; at whole pixels and outside too."""
    offset = rand(2, 18, 6, 7) * 3
    offset[:, ::5] = offset[:, ::5].round()
    mask = rand(2, 9, 6, 7, seed=3).sigmoid() if masked else None
    tensors = rand(2, 128, 12, 13), offset, rand(64, 128 // groups, 3, 3, seed=2), rand(64, seed=4), mask
    results = []
    for function in (deformable._by_sampling_again, torchvision.ops.deform_conv2d):
        x, offset, weight, bias, mask = (None if t is None else t.clone().requires_grad_() for t in tensors)
        out = function(x, offset, weight, bias, (2, 2), (1, 1), (1, 1), mask)
        (out * rand(*out.shape, seed=1)).sum().backward()
        results.append([out, *(leaf.grad for leaf in (x, offset, weight, bias, mask) if leaf is not None)])
    for a, b in zip(*results, strict=True):
        assert b.abs().sum() > 0
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_samples_are_not_kept_for_the_backward_pass():
    """They are nine times the input."""
    kept = []
    x, offset, weight = (
        t.requires_grad_() for t in (rand(1, 64, 9, 9), rand(1, 18, 9, 9), rand(64, 1, 3, 3))
    )
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        deformable._by_sampling(x, offset, weight, None, (1, 1), (1, 1), (1, 1), None)
        assert max(kept) == 9 * x.numel()
        kept.clear()
        deformable._by_sampling_again(x, offset, weight, None, (1, 1), (1, 1), (1, 1), None)
    assert max(kept, default=0) <= x.numel()


def test_deformable_convolution_by_bilinear_sampling():
    """Written out with `grid_sample`: the sum over kernel points of weight x value at the moved point."""
    layer = DeformConv2d(4, 3, 3, padding=1, deform_groups=2, bias=False).double()
    assert layer.conv_offset.out_channels == 2 * 18
    nn.init.normal_(layer.conv_offset.weight, std=0.4)
    H, W = 5, 6
    x = rand(1, 4, H, W)
    dy_dx = layer.conv_offset(x).view(2, 9, 2, H, W)  # group, point, dy and dx
    rows, columns = torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij")
    expected = torch.zeros(1, 3, H, W, dtype=torch.float64)
    for group in range(2):
        channels = slice(2 * group, 2 * group + 2)
        for point in range(9):
            i, j = divmod(point, 3)
            y, x_ = rows + i - 1 + dy_dx[group, point, 0], columns + j - 1 + dy_dx[group, point, 1]
            grid = torch.stack([2 * x_ / (W - 1) - 1, 2 * y / (H - 1) - 1], -1)[None]  # [1, H, W, 2]
            values = grid_sample(x[:, channels], grid, padding_mode="zeros", align_corners=True)
            expected += torch.einsum("oc,bchw->bohw", layer.weight[:, channels, i, j], values)
    torch.testing.assert_close(layer(x), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("layer", "share"), [(DeformConv2d, 1.0), (ModulatedDeformConv2d, 0.5)])
@pytest.mark.parametrize("bias", [True, False])
def test_starts_as_an_ordinary_convolution(layer, share, bias):
    deformable = layer(8, 4, 3, stride=2, padding=1, groups=2, bias=bias).double()
    x = rand(2, 8, 7, 9)
    expected = share * nn.functional.conv2d(x, deformable.weight, stride=2, padding=1, groups=2)
    torch.testing.assert_close(deformable(x), expected, rtol=1e-9, atol=1e-12)


# Initial weights


@pytest.mark.parametrize(("layer", "theirs"), PAIRS)
@pytest.mark.parametrize("groups", [1, 4])
def test_initial_weights_are_mmcvs(layer, theirs, groups):
    ours, theirs = (kind(64, 64, 3, groups=groups, bias=False) for kind in (layer, theirs))
    torch.testing.assert_close(ours.weight.std(), theirs.weight.std(), rtol=0.05, atol=0)
    torch.testing.assert_close(ours.weight.abs().max(), theirs.weight.abs().max(), rtol=0.01, atol=0)
    for module in (ours, theirs):
        assert not module.conv_offset.weight.any()
        assert not module.conv_offset.bias.any()


@pytest.mark.parametrize(
    ("ours", "theirs", "std"),
    [("tood.ModulatedDeformConv2d", "DCNv2", NARROW), ("tood.DeformConv2d", "DCN", WIDE)],
)
def test_initial_weights_in_a_tower_of_mmdets_heads(ours, theirs, std):
    """Its rule for `Conv2d`, N(0, 0.01), does not reach the layer; offsets start at zero all the same."""
    for layer in (ours, theirs):
        anchors = dict(type="AnchorGenerator", ratios=[1.0], scales=[8], strides=[8, 16])
        head = ATSSHead(5, 256, stacked_convs=1, conv_cfg=dict(type=layer), anchor_generator=anchors)
        head.init_weights()
        assert head.atss_reg.weight.std().item() == pytest.approx(0.01, rel=0.03)
        for tower in (head.cls_convs, head.reg_convs):
            assert tower[0].conv.weight.std().item() == pytest.approx(std, rel=0.02)
            assert not tower[0].conv.conv_offset.weight.any()
            assert not tower[0].conv.conv_offset.bias.any()


def test_initial_weights_in_the_t_head():
    """As the released code of TOOD: the convolution like the others of the tower, and no offset."""
    head = THead(5, 256, 256, 3, None, dict(type="GN", num_groups=32), num_dcn=2)
    head.init_weights()
    for layer in head.tower:
        assert layer.conv.weight.std().item() == pytest.approx(0.01, rel=0.02)
    for layer in head.tower[:2]:
        assert isinstance(layer.conv, ModulatedDeformConv2d)
        assert layer.conv.weight.abs().max() > 0.03  # normal: a uniform distribution would end at .017
        assert not layer.conv.conv_offset.weight.any()
        assert not layer.conv.conv_offset.bias.any()


# Backbones


def backbone(layer: str | None, **options) -> ResNet:
    if layer is not None:
        dcn = dict(type=f"tood.{layer.__name__}", deform_groups=1, fallback_on_stride=False)
        options |= dict(dcn=dcn, stage_with_dcn=(False, True, True, True))
    return ResNet(depth=50, base_channels=8, stem_channels=8, **options)


@pytest.mark.parametrize("layer", LAYERS)
def test_initial_weights_in_a_backbone_without_pretrained_ones(layer):
    model = backbone(layer)
    model.init_weights()
    layers = [module for module in model.modules() if isinstance(module, DeformConv2d)]
    assert len(layers) == 4 + 6 + 3
    for module in layers:
        assert not module.conv_offset.weight.any()
        assert not module.conv_offset.bias.any()
        assert module.weight.std() > 0


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("load", [nn.Module.load_state_dict, load_state_dict], ids=["torch", "mmengine"])
def test_weights_of_an_ordinary_backbone_load(layer, load, tmp_path):
    """Only the convolutions of offsets are missing, and they stay zero."""
    plain, deformable = backbone(None), backbone(layer)
    plain.init_weights()
    load(deformable, plain.state_dict(), strict=False)
    missing = [name for name in deformable.state_dict() if name not in plain.state_dict()]
    assert len(missing) == 2 * (4 + 6 + 3)
    assert all(".conv2.conv_offset." in name for name in missing)
    for name, value in plain.state_dict().items():
        assert torch.equal(deformable.state_dict()[name], value), name
    for name in missing:
        assert not deformable.state_dict()[name].any()

    torch.save(plain.state_dict(), tmp_path / "weights.pth")
    initialised = backbone(layer, init_cfg=dict(type="Pretrained", checkpoint=str(tmp_path / "weights.pth")))
    initialised.init_weights()
    for name, value in deformable.state_dict().items():
        assert torch.equal(initialised.state_dict()[name], value), name


def test_a_pretrained_backbone_with_offsets_starts_with_its_features():
    """DCN alone: the mask of DCNv2 starts at a half."""
    plain, deformable = backbone(None).double(), backbone(DeformConv2d).double()
    plain.init_weights()
    plain.eval()
    deformable.eval()
    deformable.load_state_dict(plain.state_dict(), strict=False)
    image = rand(1, 3, 64, 64)
    for a, b in zip(deformable(image), plain(image), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


# Names of early releases


@pytest.mark.parametrize("layer", LAYERS)
def test_names_of_early_releases(layer):
    model = nn.ModuleDict({"layer": nn.ModuleDict({"conv2": layer(4, 4, 3), "norm": nn.GroupNorm(1, 4)})})
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    today = model.state_dict()
    early = {name.replace("conv2.conv_offset.", "conv2_offset."): value for name, value in today.items()}
    early["layer.reg_offset.weight"] = torch.ones(1)  # beside no convolution of this name
    assert early.keys() - today.keys() == {
        f"layer.{name}" for name in ("conv2_offset.weight", "conv2_offset.bias", "reg_offset.weight")
    }
    before = dict(early)
    renamed = rename_offsets(early)
    assert early == before
    assert renamed.pop("layer.reg_offset.weight").item() == 1
    assert rename_offsets(renamed).keys() == renamed.keys() == today.keys()
    assert all(renamed[name] is value for name, value in today.items())
    fresh = nn.ModuleDict({"layer": nn.ModuleDict({"conv2": layer(4, 4, 3), "norm": nn.GroupNorm(1, 4)})})
    fresh.load_state_dict(renamed, strict=True)


def test_why_renaming_is_a_function():
    """mmcv's layer wants to rename while it loads; torch shows it no name outside of itself."""
    model = nn.ModuleDict({"conv2": mmcv.ops.DeformConv2dPack(4, 4, 3)})
    state = {"conv2.weight": torch.ones(4, 4, 3, 3), "conv2_offset.weight": torch.ones(18, 4, 3, 3)}
    assert "conv2_offset.weight" in model.load_state_dict(state, strict=False).unexpected_keys
    assert not model["conv2"].conv_offset.weight.any()
