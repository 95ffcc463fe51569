"""Initial weights of backbones: all of a file goes into the model, and nothing else is taken for one."""

import pytest
import torch
from helpers.weight_files import Harmful
from mmdet.registry import MODELS
from mmengine.registry import init_default_scope

import tood.models  # noqa: F401 - registers the deformable layers
from tood.engine.config import initial_model, resolve
from tood.engine.weights import address, draw_weights, require_backbone
from tood.study.declarations import load_runs
from tood.study.plan import Plan

# A narrow ResNeXt whose last two stages may be deformable, as those of Table 5
NARROW = dict(
    type="ResNeXt",
    depth=50,
    groups=4,
    base_width=4,
    base_channels=8,
    stem_channels=8,
    num_stages=4,
    out_indices=(0, 1, 2, 3),
)
DEFORMABLE = dict(
    dcn=dict(type="tood.ModulatedDeformConv2d", deform_groups=1, fallback_on_stride=False),
    stage_with_dcn=(False, False, True, True),
)


def build(**changes):
    init_default_scope("mmdet")
    return MODELS.build(NARROW | changes)


@pytest.fixture
def plain(tmp_path):
    """A backbone without deformable layers, and the file of its weights."""
    backbone, path = build(), tmp_path / "initial.pth"
    backbone.init_weights()
    torch.save(backbone.state_dict(), path)
    return backbone, path


def test_a_deformable_backbone_takes_every_weight_of_the_plain_one(plain):
    backbone, path = plain
    deformable = build(**DEFORMABLE, init_cfg=dict(type="Pretrained", checkpoint=str(path)))
    require_backbone(path, deformable)
    deformable.init_weights()
    found, expected = deformable.state_dict(), backbone.state_dict()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
    offsets = {name for name in found if name not in expected}
    assert {name.split(".")[0] for name in offsets} == {"layer3", "layer4"}
    assert all("conv_offset" in name and not found[name].any() for name in offsets)
    groups = {layer.groups for name, layer in deformable.named_modules() if name.endswith("conv2")}
    assert groups == {4}  # those of the block, deformable or not


def test_files_without_counters_or_with_a_state_dict_inside_will_do(plain):
    backbone, path = plain
    content = {k: v for k, v in backbone.state_dict().items() if "num_batches_tracked" not in k}
    torch.save({"state_dict": content, "meta": {}}, path)
    require_backbone(path, build(**DEFORMABLE))


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (
            lambda names: names.pop("layer3.1.conv2.weight"),
            "1 of the backbone's .* such as layer3.1.conv2.weight",
        ),
        (lambda names: names.update({"conv1.weight": torch.zeros(16, 3, 7, 7)}), "such as conv1.weight"),
        (dict.clear, "holds no state dict of names and tensors, but nothing"),
    ],
    ids=["a weight is absent", "a weight is wider", "nothing"],
)
def test_a_file_of_another_backbone_is_refused(plain, change, part):
    backbone, path = plain
    names = dict(backbone.state_dict())
    change(names)
    torch.save(names, path)
    with pytest.raises(RuntimeError, match=rf"^{path}: .*{part}.*put the file of the run's `weights` there"):
        require_backbone(path, build(**DEFORMABLE))


def test_a_file_that_holds_no_weights_is_refused(tmp_path):
    path = tmp_path / "initial.pth"
    path.write_text("<html>404</html>")
    with pytest.raises(RuntimeError, match=r"is a web page.*put the file of the run's `weights` there"):
        require_backbone(path, build())


def test_what_mmengine_would_execute_it_does_not_load(plain, tmp_path):
    """Its own reader falls back to one that executes where the safe one refuses."""
    backbone, path = plain
    planted = tmp_path / "planted"
    torch.save({"state_dict": backbone.state_dict(), "more": Harmful(planted)}, path)
    other = build(init_cfg=dict(type="Pretrained", checkpoint=str(path)))
    require_backbone(path, other)
    other.init_weights()
    assert torch.equal(other.conv1.weight, backbone.conv1.weight)
    assert not planted.exists()


@pytest.mark.parametrize("name", sorted({run.weights for run in load_runs().values()}))
def test_every_name_has_an_address_with_a_checksum(name):
    url, digest = address(name)
    assert url.startswith("https://")
    assert len(digest) == 8
    network = "resnext101" if "resnext" in name else "resnet101" if "101" in name else "resnet50"
    assert f"/{network}" in url


def drawn(run: str, seed: int) -> dict[str, dict[str, torch.Tensor]]:
    """Initial weights of a run of the scale `mini`, by part; then the next number of the generator."""
    settings = Plan({"scale": "mini"}).settings(run)
    model = initial_model(resolve(settings, [{"id": 1, "name": "cup"}], None), None, seed)
    parts = {name: dict(part.named_parameters()) for name, part in model.named_children()}
    return parts | {"next": {"number": torch.rand(1)}}


def same(some: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> bool:
    return some.keys() == others.keys() and all(torch.equal(some[name], others[name]) for name in some)


@pytest.mark.parametrize(
    ("run", "other"),
    [
        ("atss_af", "tood_af"),
        ("atss_af", "tal"),
        ("atss_ab", "retinanet"),
        ("fovea", "fcos_imprv_thead"),
        ("gfl_r50", "ota_r50"),
    ],
)
def test_shared_parts_draw_the_same_weights_whatever_the_head_is(run, other):
    one, two = drawn(run, 3), drawn(other, 3)
    for part in ("backbone", "neck", "next"):
        assert one[part], part
        assert same(one[part], two[part]), part
    assert not same(one["bbox_head"], two["bbox_head"])


def test_the_seed_decides_every_part():
    one, again, other = drawn("tood_af", 3), drawn("tood_af", 3), drawn("tood_af", 4)
    for part in ("backbone", "neck", "bbox_head"):
        assert same(one[part], again[part]), part
        assert not same(one[part], other[part]), part


def test_parts_do_not_repeat_each_other():
    """Two layers of one shape in two parts begin with other weights."""
    layer = dict(type="mmdet.FPN", in_channels=[4], out_channels=4, num_outs=1)
    model = torch.nn.ModuleDict({name: MODELS.build(layer) for name in ("backbone", "neck")})
    draw_weights(model, 0)
    assert not same(*(dict(part.named_parameters()) for part in model.values()))
