"""The T-head in FCOS, FoveaBox and heads of mmdet that this package does not know."""

import math
from pathlib import Path

import pytest
import torch
from mmdet.models.dense_heads import ATSSHead as MMDetATSSHead
from mmdet.models.dense_heads import FCOSHead as MMDetFCOSHead
from mmdet.models.dense_heads import FoveaHead as MMDetFoveaHead
from mmdet.models.dense_heads import RetinaHead
from mmdet.models.task_modules.prior_generators import AnchorGenerator
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.utils import register_all_modules
from mmengine import ConfigDict
from mmengine.config import Config
from mmengine.structures import InstanceData
from torchvision.ops import box_iou

from examples.gfl_t_head import THeadGFL
from tood.heads import (
    ATSSHead,
    FCOSHead,
    FoveaHead,
    THeadFCOS,
    THeadFovea,
    THeadMixin,
    TorchvisionNMSMixin,
)
from tood.models.tood.losses import LogDistanceGIoULoss
from tood.models.tood.spatial_alignment import align_logits, align_scores
from tood.models.tood.t_head import HeadMaps

REPOSITORY = Path(__file__).parents[3]
STRIDES, CHANNELS, CLASSES = [8, 16], 16, 3
COMMON = dict(
    num_classes=CLASSES,
    in_channels=CHANNELS,
    feat_channels=CHANNELS,
    stacked_convs=2,
    norm_cfg=dict(type="GN", num_groups=4),
    test_cfg=ConfigDict(
        nms_pre=100,
        min_bbox_size=0,
        score_thr=0.05,
        nms=dict(type="nms", iou_threshold=0.6),
        max_per_img=50,
    ),
)
FCOS = dict(
    strides=STRIDES,
    regress_ranges=[(-1, 64), (64, 1e8)],
    norm_on_bbox=True,
    centerness_on_reg=True,
    center_sampling=True,
    conv_bias=True,
    loss_cls=dict(type="tood.FocalLoss", use_sigmoid=True),
    loss_bbox=dict(type="GIoULoss"),
)
FOVEA = dict(
    strides=STRIDES,
    base_edge_list=[16, 64],
    scale_ranges=[(1, 64), (32, 256)],
    conv_bias=True,
    loss_cls=dict(type="tood.FocalLoss", use_sigmoid=True, gamma=1.5, alpha=0.4),
    loss_bbox=dict(type="SmoothL1Loss", beta=0.11),
)
ANCHORS = dict(
    anchor_generator=dict(
        type="AnchorGenerator", ratios=[1.0], octave_base_scale=4, scales_per_octave=1, strides=STRIDES
    ),
    bbox_coder=dict(type="DeltaXYWHBBoxCoder", target_means=[0.0] * 4, target_stds=[0.1, 0.1, 0.2, 0.2]),
    train_cfg=ConfigDict(allowed_border=-1, pos_weight=-1, debug=False),
)
RETINA = ANCHORS | dict(loss_bbox=dict(type="L1Loss"), loss_cls=dict(type="tood.FocalLoss", use_sigmoid=True))
RETINA["train_cfg"] = ConfigDict(
    RETINA["train_cfg"], assigner=dict(type="MaxIoUAssigner", pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0)
)
ATSS = ANCHORS | dict(
    loss_bbox=dict(type="GIoULoss", loss_weight=2.0),
    loss_cls=dict(type="tood.FocalLoss", use_sigmoid=True),
    train_cfg=ConfigDict(ANCHORS["train_cfg"], assigner=dict(type="ATSSAssigner", topk=9)),
)
GFL = dict(
    anchor_generator=ANCHORS["anchor_generator"],
    reg_max=8,
    loss_cls=dict(type="QualityFocalLoss", use_sigmoid=True, beta=2.0),
    loss_dfl=dict(type="DistributionFocalLoss", loss_weight=0.25),
    loss_bbox=dict(type="GIoULoss", loss_weight=2.0),
    train_cfg=ConfigDict(ANCHORS["train_cfg"], assigner=dict(type="ATSSAssigner", topk=9)),
)


class THeadRetina(THeadMixin, RetinaHead):
    """A host that gives nothing but its box coder."""


HOSTS = {
    "FCOS": (THeadFCOS, FCOS),
    "FoveaBox": (THeadFovea, FOVEA),
    "RetinaNet": (THeadRetina, RETINA),
    "GFL": (THeadGFL, GFL),
}


def build(head, config, seed=0):
    """A head with random weights large enough for every part to matter."""
    built = head(**COMMON, **config).double()
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            if not name.endswith("scale"):
                parameter.copy_(torch.randn_like(parameter) * 0.15)
    return built


def features(seed=0, size=(96, 128), batch=2):
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        torch.randn(
            batch, CHANNELS, size[0] // s, size[1] // s, generator=generator, dtype=torch.float64
        ).requires_grad_()
        for s in STRIDES
    )


def truth():
    boxes = [[[10.0, 12, 60, 70], [30, 30, 50, 46]], [[5, 5, 120, 90]]]
    return [
        InstanceData(bboxes=torch.tensor(b, dtype=torch.float64), labels=torch.arange(len(b))) for b in boxes
    ]


METAS = [dict(img_shape=(96, 128), pad_shape=(96, 128), scale_factor=(1.0, 1.0))] * 2


def losses(head, outs):
    found = head.loss_by_feat(*outs, truth(), METAS)
    return {name: sum(value) if isinstance(value, list) else value for name, value in found.items()}


@pytest.fixture(autouse=True)
def no_rounding_to_float32(monkeypatch):
    """mmdet casts predictions to float32 on the way; in float64 only the arithmetic is compared."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    monkeypatch.setattr(torch, "float", torch.float64)
    monkeypatch.setattr(torch, "float32", torch.float64)
    of_single = AnchorGenerator.grid_priors

    def grid_priors(self, sizes, dtype=torch.float64, device="cpu"):
        return of_single(self, sizes, dtype, device)

    monkeypatch.setattr(AnchorGenerator, "grid_priors", grid_priors)


# The parallel heads are mmdet's


@pytest.mark.parametrize(
    ("ours", "theirs", "config"),
    [(FCOSHead, MMDetFCOSHead, FCOS), (FoveaHead, MMDetFoveaHead, FOVEA), (ATSSHead, MMDetATSSHead, ATSS)],
    ids=["FCOS", "FoveaBox", "ATSS"],
)
def test_parallel_heads_equal_mmdet(ours, theirs, config):
    first, second = build(ours, config), build(theirs, config)
    second.load_state_dict(first.state_dict(), strict=True)
    a, b = losses(first, first(features())), losses(second, second(features()))
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-9, atol=0)
        assert a[name] > 0


# A T-head without alignment is its host


@pytest.mark.parametrize(
    ("t_head", "host", "config"),
    [(THeadFCOS, FCOSHead, FCOS), (THeadFovea, FoveaHead, FOVEA)],
    ids=["FCOS", "FoveaBox"],
)
def test_without_alignment_the_loss_is_the_hosts(monkeypatch, t_head, host, config):
    host, head = build(host, config), build(t_head, config)

    def raw_predictions(x):
        cls, reg = x, x
        for conv in host.cls_convs:
            cls = conv(cls)
        for conv in host.reg_convs:
            reg = conv(reg)
        return HeadMaps(host.conv_cls(cls), host.conv_reg(reg), None, None)

    monkeypatch.setattr(head.t_head, "forward", raw_predictions)
    expected = losses(host, host(features()))
    found = losses(head, head(features()))
    assert found.keys() == {"loss_cls", "loss_bbox"}
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", ["FCOS", "FoveaBox", "RetinaNet"])
def test_zero_offsets_leave_the_boxes(name):
    """Decoding, sampling where it stands, and encoding again: nothing moves."""
    head = build(*HOSTS[name])
    with torch.no_grad():
        for parameter in head.t_head.alignment.offset[2].parameters():
            parameter.zero_()
    feats = features()
    for level, x in enumerate(feats):
        _, regression = head._forward_level(level, x)
        raw = head._scaled(level, head.t_head(x).regression)
        torch.testing.assert_close(regression, raw, rtol=1e-6, atol=1e-9)


# Properties


@pytest.mark.parametrize("name", HOSTS)
def test_gradients_reach_every_parameter(name):
    head = build(*HOSTS[name])
    sum(losses(head, head(features())).values()).backward()
    for parameter_name, parameter in head.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        assert parameter.grad.abs().sum() > 0, parameter_name


@pytest.mark.parametrize("name", HOSTS)
def test_batched_equals_single(name):
    head = build(*HOSTS[name]).eval()
    feats = features()
    together = head(feats)
    for image in range(2):
        alone = head(tuple(x[image : image + 1] for x in feats))
        for a, b in zip(together, alone, strict=True):
            for x, y in zip(a, b, strict=True):
                torch.testing.assert_close(x[image : image + 1], y, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["FCOS", "FoveaBox"])
def test_a_shift_by_a_stride_shifts_the_maps(name):
    """One object far from the borders, moved by a cell: predictions relative to their anchor move along."""
    head = build(*HOSTS[name]).eval()
    with torch.no_grad():
        for parameter in head.t_head.alignment.offset[2].parameters():
            parameter.mul_(0.3)
    x = torch.zeros(1, CHANNELS, 40, 40, dtype=torch.float64)
    x[..., 18:22, 18:22] = torch.randn(1, CHANNELS, 4, 4, dtype=torch.float64)
    here = head._forward_level(0, x)
    there = head._forward_level(0, x.roll((1, 1), (2, 3)))
    inside = slice(12, -12)
    for a, b in zip(here, there, strict=True):
        torch.testing.assert_close(
            a.roll((1, 1), (2, 3))[..., inside, inside], b[..., inside, inside], rtol=1e-8, atol=1e-8
        )


def test_detections_come_from_every_host_of_the_paper():
    for name in ("FCOS", "FoveaBox"):
        head = build(*HOSTS[name]).eval()
        with torch.no_grad():
            outs = head(features())
            found = head.predict_by_feat(*outs, batch_img_metas=METAS, rescale=True)
        for image in found:
            assert 0 < len(image.scores) <= 50
            assert (image.bboxes >= 0).all()
            assert (image.bboxes[:, 0::2] <= 128).all()


def test_fcos_distances_must_be_in_strides():
    with pytest.raises(ValueError, match="norm_on_bbox=True"):
        THeadFCOS(**COMMON, **(FCOS | dict(norm_on_bbox=False)))


# The pieces


def test_aligned_logits_have_the_aligned_scores():
    cls, prob = torch.randn(2, 5, 4, 4, dtype=torch.float64) * 8, torch.randn(2, 1, 4, 4).double() * 8
    torch.testing.assert_close(
        align_logits(cls, prob).sigmoid(), align_scores(cls, prob), rtol=1e-10, atol=1e-300
    )


@pytest.mark.parametrize("logit", [-200.0, -20.0, 0.0, 20.0, 90.0, 200.0])
def test_aligned_logits_are_finite_with_their_gradients(logit):
    cls = torch.full((1, 1, 1, 1), logit, requires_grad=True)
    logits = align_logits(cls, torch.full((1, 1, 1, 1), logit))
    logits.sum().backward()
    assert logits.isfinite().all()
    assert cls.grad.isfinite().all()


def test_giou_of_log_distances_by_hand():
    loss = LogDistanceGIoULoss(reduction="none")
    unit = torch.zeros(1, 4)  # a box of 2 x 2 around the point
    wide = torch.tensor([[0.0, 0.0, math.log(3.0), 0.0]])  # 4 x 2, the same left side
    assert loss(unit, unit).item() == pytest.approx(0, abs=1e-6)
    assert loss(unit, wide).item() == pytest.approx(1 - 0.5)


# Somebody else's configuration


def test_example_trains_for_two_iterations_and_detects(monkeypatch):
    """GFL with a T-head from mmdet's own configuration, narrowed, on one image with two objects."""
    monkeypatch.undo()
    config = Config.fromfile(REPOSITORY / "examples" / "gfl_t_head_r50_fpn_1x_coco.py")
    register_all_modules()
    config.model.backbone.update(
        depth=18, base_channels=16, stem_channels=16, init_cfg=None, frozen_stages=-1, norm_eval=False
    )
    config.model.neck.update(in_channels=[16, 32, 64, 128], out_channels=32)
    config.model.bbox_head.update(
        in_channels=32, feat_channels=32, num_classes=2, norm_cfg=dict(type="GN", num_groups=8)
    )
    torch.manual_seed(0)
    model = MODELS.build(config.model)
    model.init_weights()
    sample = DetDataSample(metainfo=METAS[0] | dict(ori_shape=(96, 128), batch_input_shape=(96, 128)))
    sample.gt_instances = InstanceData(
        bboxes=torch.tensor([[10.0, 12, 60, 70], [5, 5, 120, 90]]), labels=torch.tensor([0, 1])
    )
    image = torch.randn(1, 3, 96, 128)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    before = [p.detach().clone() for p in model.bbox_head.t_head.parameters()]
    totals = []
    for _ in range(2):
        total, _ = model.parse_losses(model(image, [sample], mode="loss"))
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert totals[1] < totals[0]
    after = model.bbox_head.t_head.parameters()
    assert all((a != b).any() for a, b in zip(after, before, strict=True))
    model.eval().bbox_head.test_cfg.score_thr = 0.0
    (found,) = model(image, [sample], mode="predict")
    boxes, labels = found.pred_instances.bboxes, found.pred_instances.labels
    assert len(boxes) > 5
    overlaps = box_iou(boxes, boxes).fill_diagonal_(0)
    assert overlaps[labels[:, None] == labels].max() <= 0.6


@pytest.mark.parametrize("name", ["RetinaNet", "GFL"])
def test_detections_of_a_host_are_mmdets(name, torchvision_operators):
    """The NMS that hosts get equals the one of mmdet that it replaces."""
    head, feats = build(*HOSTS[name]), [f.detach() for f in features()]
    metas = [METAS[0] | dict(scale_factor=(0.5, 0.7))] * 2
    outs = [[level.detach() for level in maps] for maps in head(feats)]
    found = head.predict_by_feat(*outs, batch_img_metas=metas, rescale=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(TorchvisionNMSMixin, "_bbox_post_process")
        expected = head.predict_by_feat(*outs, batch_img_metas=metas, rescale=True)
    for a, b in zip(found, expected, strict=True):
        assert len(a) == len(b) > 20
        assert torch.equal(a.bboxes, b.bboxes)
        assert torch.equal(a.scores, b.scores)
        assert torch.equal(a.labels, b.labels)


def test_nms_of_another_kind_is_refused():
    head = build(*HOSTS["RetinaNet"])
    head.test_cfg.nms.type = "soft_nms"
    outs = [[level.detach() for level in maps] for maps in head(features())]
    with pytest.raises(ValueError, match=r"test_cfg\.nms\.type is 'soft_nms'"):
        head.predict_by_feat(*outs, batch_img_metas=METAS)
    head.test_cfg.nms.type = "nms"
