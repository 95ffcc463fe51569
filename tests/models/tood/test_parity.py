"""Our TOOD head against mmdet's: same weights, inputs and targets, float64."""

import pytest
import torch
from helpers.task_alignment import dense_targets
from mmdet.models.dense_heads import TOODHead as MMDetTOODHead
from mmengine import ConfigDict, MessageHub
from mmengine.structures import InstanceData

from tood.engine.side_by_side import averaging
from tood.evaluation.released import convert
from tood.heads import TOODHead

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.usefixtures("torchvision_operators"),
]
STRIDES = [8, 16, 32]
# mmdet guards every division of a loss by adding this to the divisor, which is 1 where TOOD calls it.
GUARD = 1 + torch.finfo(torch.float32).eps
# Image sizes (height, width): the second is padded to the first.
SIZE, PADDED = (96, 128), (70, 101)


@pytest.fixture(autouse=True)
def no_rounding_to_float32(request, monkeypatch):
    """mmdet casts boxes and t-hat to float32 on the way; in float64 only the arithmetic is compared."""
    if "float32" not in request.node.name:
        monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
        monkeypatch.setattr(torch, "float", torch.float64)


def head_config(anchor_type: str, initial_epoch: int) -> dict:
    return dict(
        num_classes=5,
        in_channels=16,
        stacked_convs=3,
        feat_channels=16,
        norm_cfg=dict(type="GN", num_groups=4),
        anchor_type=anchor_type,
        anchor_generator=dict(
            type="AnchorGenerator", ratios=[1.0], octave_base_scale=4, scales_per_octave=1, strides=STRIDES
        ),
        bbox_coder=dict(type="DeltaXYWHBBoxCoder", target_means=[0.0] * 4, target_stds=[0.1, 0.1, 0.2, 0.2]),
        initial_loss_cls=dict(
            type="FocalLoss", use_sigmoid=True, activated=True, gamma=2.0, alpha=0.25, loss_weight=1.0
        ),
        loss_cls=dict(type="QualityFocalLoss", use_sigmoid=True, activated=True, beta=2.0, loss_weight=1.0),
        loss_bbox=dict(type="GIoULoss", loss_weight=2.0),
        train_cfg=ConfigDict(
            initial_epoch=initial_epoch,
            initial_assigner=dict(type="ATSSAssigner", topk=9),
            assigner=dict(type="TaskAlignedAssigner", topk=13),
            alpha=1,
            beta=6,
            allowed_border=-1,
            pos_weight=-1,
            debug=False,
        ),
        test_cfg=ConfigDict(
            nms_pre=100,
            min_bbox_size=0,
            score_thr=0.05,
            nms=dict(type="nms", iou_threshold=0.6),
            max_per_img=50,
        ),
    )


def build_pair(anchor_type: str, phase: str) -> tuple[MMDetTOODHead, TOODHead]:
    """mmdet's head and ours with the same random weights, in the given phase of training."""
    config = head_config(anchor_type, initial_epoch=4)
    theirs = MMDetTOODHead(**config).double()
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            parameter.copy_(torch.randn_like(parameter) * (0.3 if "offset" in name else 0.15))
            if name.endswith("scale"):
                parameter.fill_(1.3)
    ours = TOODHead(**config).double()
    ours.load_state_dict(convert(theirs.state_dict()), strict=True)
    epoch = {"warm-up": 0, "aligned": 4}[phase]
    MessageHub.get_current_instance().update_info("epoch", epoch)
    ours.set_epoch(epoch)
    anchors_of = theirs.get_anchors

    def get_anchors(*args, **kwargs):
        anchors, flags = anchors_of(*args, **kwargs)
        return [[level.to(theirs.scales[0].scale) for level in image] for image in anchors], flags

    theirs.get_anchors = get_anchors
    return theirs, ours


def features(sizes=SIZE, batch=2) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(
        torch.randn(batch, 16, -(-sizes[0] // s), -(-sizes[1] // s), generator=generator, dtype=torch.float64)
        for s in STRIDES
    )


def objects(*boxes: list[float], labels: list[int] | None = None) -> InstanceData:
    return InstanceData(
        bboxes=torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4),
        labels=torch.tensor(labels if labels is not None else range(len(boxes)), dtype=torch.long),
    )


def meta(img_shape=SIZE, pad_shape=SIZE) -> dict:
    return dict(img_shape=img_shape, pad_shape=pad_shape, ori_shape=img_shape, scale_factor=(1.0, 1.0))


EMPTY = objects()
ONE = objects([10, 20, 60, 80])
OVERLAPPING = objects([10, 10, 70, 80], [20, 16, 76, 88], labels=[2, 2])
SEVERAL = objects([3, 3, 30, 40], [50, 20, 120, 90], [40, 40, 60, 60], [0, 0, 128, 96])
SMALL = objects([5.2, 5.2, 6.9, 6.9])
CASES = {
    "empty": ([EMPTY, EMPTY], [meta(), meta()], SIZE),
    "one": ([ONE, EMPTY], [meta(), meta()], SIZE),
    "overlapping": ([OVERLAPPING, ONE], [meta(), meta()], SIZE),
    "several": ([SEVERAL, OVERLAPPING], [meta(), meta()], SIZE),
    "smaller than a stride": ([SMALL, SEVERAL], [meta(), meta()], SIZE),
    "padded": ([SEVERAL, ONE], [meta(), meta(PADDED, (72, 104))], SIZE),
    "1-pixel level": ([objects([2, 3, 28, 25]), ONE], [meta((32, 32), (32, 32))] * 2, (32, 32)),
}


def assert_close(ours, theirs, what, rtol=1e-9):
    scale = theirs.abs().max().clamp(min=1e-12)
    difference = (ours - theirs).abs().max() / scale
    assert difference < rtol, f"{what}: relative difference {difference:.2e}"


@pytest.mark.parametrize("anchor_type", ["anchor_free", "anchor_based"])
@pytest.mark.parametrize("sizes", [SIZE, (32, 32), (8, 40)], ids=str)
def test_forward(anchor_type, sizes):
    theirs, ours = build_pair(anchor_type, "aligned")
    feats = features(sizes)
    for name, a, b in zip(("scores", "boxes"), ours(feats), theirs(feats), strict=True):
        for level, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_close(x, y, f"{name} of level {level}")


@pytest.mark.parametrize("anchor_type", ["anchor_free", "anchor_based"])
@pytest.mark.parametrize("phase", ["warm-up", "aligned"])
@pytest.mark.parametrize("case", CASES)
def test_losses_and_gradients(anchor_type, phase, case):
    gts, metas, sizes = CASES[case]
    theirs, ours = build_pair(anchor_type, phase)
    losses = []
    for head in (theirs, ours):
        feats = tuple(f.requires_grad_() for f in features(sizes))
        loss = head.loss_by_feat(*head(feats), [g.clone() for g in gts], metas)
        loss = {k: sum(v) * GUARD if isinstance(v, list) else v for k, v in loss.items()}
        sum(loss.values()).backward()
        losses.append((loss, feats))
    (their_loss, their_feats), (our_loss, our_feats) = losses
    assert our_loss.keys() == their_loss.keys()
    for name in our_loss:
        torch.testing.assert_close(our_loss[name], their_loss[name], rtol=1e-9, atol=1e-12)
    if "empty" not in case:
        assert our_loss["loss_bbox"] > 0
    for level, (a, b) in enumerate(zip(our_feats, their_feats, strict=True)):
        assert_close(a.grad, b.grad, f"gradient of the features of level {level}")
    # A parameter that mmdet gives no gradient where there is nothing to learn gets zeros from us.
    their_grads = convert(
        {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in theirs.named_parameters()}
    )
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None, f"no gradient reaches {name}"
        assert_close(parameter.grad, their_grads[name], f"gradient of {name}")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("phase", ["warm-up", "aligned"])
def test_assignment(case, phase):
    """Labels, target boxes and t-hat of every anchor."""
    gts, metas, sizes = CASES[case]
    theirs, ours = build_pair("anchor_free", phase)
    feats = features(sizes)
    scores, boxes = ours(feats)
    scores, boxes = [s.detach() for s in scores], [b.detach() for b in boxes]
    flat_scores = torch.cat([s.flatten(2) for s in scores], 2).transpose(1, 2)
    flat_boxes = torch.cat([b.flatten(2) * s for b, s in zip(boxes, STRIDES, strict=True)], 2).transpose(1, 2)
    grids = [tuple(s.shape[-2:]) for s in scores]
    anchors, flags = theirs.get_anchors(grids, metas, device="cpu")
    _, labels, weights, targets, t_hat = theirs.get_targets(
        flat_scores, flat_boxes, anchors, flags, [g.clone() for g in gts], metas
    )
    mine = dense_targets(ours, scores, boxes, gts, metas)
    for b in range(2):
        assert torch.equal(mine.labels[b], torch.cat([level[b] for level in labels]))
        assert torch.equal(mine.weights[b], torch.cat([level[b] for level in weights]).double())
        assert torch.equal(mine.boxes[b], torch.cat([level[b] for level in targets]).double())
        torch.testing.assert_close(
            mine.scores[b], torch.cat([level[b] for level in t_hat]), rtol=1e-9, atol=1e-15
        )


@pytest.mark.parametrize("anchor_type", ["anchor_free", "anchor_based"])
def test_detections_equal_without_the_deliberate_differences(anchor_type):
    theirs, ours = build_pair(anchor_type, "aligned")
    feats, metas = features(), [meta(), meta(PADDED, (72, 104)) | dict(scale_factor=(0.5, 0.7))]
    cfg = theirs.test_cfg
    outs = [[level.detach() for level in maps] for maps in theirs(feats)]
    expected = theirs.predict_by_feat(*outs, batch_img_metas=metas, rescale=True)
    cfg = ConfigDict(**cfg, nms_pre_by="pair", clip=False)
    found = ours.predict_by_feat(*outs, batch_img_metas=metas, cfg=cfg, rescale=True)
    for a, b in zip(found, expected, strict=True):
        assert len(a.scores) == len(b.scores) == 50
        torch.testing.assert_close(a.scores, b.scores, rtol=1e-9, atol=0)
        torch.testing.assert_close(a.bboxes, b.bboxes, rtol=1e-9, atol=1e-9)
        assert torch.equal(a.labels, b.labels)


def test_loss_of_float32_matches_too():
    gts, metas, sizes = CASES["several"]
    theirs, ours = build_pair("anchor_free", "aligned")
    theirs.float(), ours.float()
    feats = tuple(f.float() for f in features(sizes))
    gts = [InstanceData(bboxes=g.bboxes.float(), labels=g.labels) for g in gts]
    expected = theirs.loss_by_feat(*theirs(feats), gts, metas)
    found = ours.loss_by_feat(*ours(feats), gts, metas)
    for name, value in found.items():
        torch.testing.assert_close(value, sum(expected[name]), rtol=1e-4, atol=1e-6)


# The deliberate differences, each alone


def test_boxes_are_clipped_to_the_image_before_nms():
    """As the paper's code and mmdet's other heads do, and mmdet's TOODHead does not."""
    theirs, ours = build_pair("anchor_free", "aligned")
    outs = [[level.detach() for level in maps] for maps in ours(features())]
    metas = [meta(PADDED, (72, 104))] * 2
    limit = torch.tensor([PADDED[1], PADDED[0]] * 2)
    (unclipped, *_) = theirs.predict_by_feat(*outs, batch_img_metas=metas)
    (clipped, *_) = ours.predict_by_feat(*outs, batch_img_metas=metas)
    assert (unclipped.bboxes > limit).any()
    assert (unclipped.bboxes < 0).any()
    assert (clipped.bboxes <= limit).all()
    assert (clipped.bboxes >= 0).all()


def test_small_sums_of_t_hat_divide_as_released_only_on_request():
    gts, metas = [objects([6, 7, 11, 10]), EMPTY], [meta(), meta()]
    _, ours = build_pair("anchor_free", "aligned")
    ours.train_cfg["centre_in_box"] = False
    outs = ours(features())
    handed_over = []
    with averaging(ours, lambda sums: handed_over.append(sums) or sums):
        ours.loss_by_feat(*outs, gts, metas)
    normaliser = handed_over[0][0]
    assert 0 < normaliser < 1
    as_mmdet = ours.loss_by_feat(*outs, gts, metas)
    ours.train_cfg["normaliser_min"] = 1e-12
    as_released = ours.loss_by_feat(*outs, gts, metas)
    torch.testing.assert_close(as_released["loss_cls"] * normaliser, as_mmdet["loss_cls"])


def test_inverted_boxes_are_kept_on_request():
    _, ours = build_pair("anchor_free", "aligned")
    feats = features()
    repaired = ours(feats)[1][0]
    ours.keep_inverted = True
    kept = ours(feats)[1][0]
    inverted = (kept[:, :2] > kept[:, 2:]).any(1)
    assert inverted.any()
    assert not (repaired[:, :2] > repaired[:, 2:]).any()
    keep = ~inverted[:, None].expand_as(kept)
    assert torch.equal(repaired[keep], kept[keep])


def test_the_epoch_must_be_told():
    _, ours = build_pair("anchor_free", "aligned")
    ours.set_epoch(None)
    with pytest.raises(RuntimeError, match="set_epoch"):
        ours.loss_by_feat(*ours(features()), [ONE, ONE], [meta(), meta()])


def test_one_anchor_a_location():
    config = head_config("anchor_free", 4)
    config["anchor_generator"]["ratios"] = [0.5, 1.0, 2.0]
    with pytest.raises(ValueError, match="one anchor per location"):
        TOODHead(**config)


def test_convert_names_what_it_looked_for():
    with pytest.raises(ValueError, match="no parameter of a TOOD head"):
        convert({"backbone.conv1.weight": torch.zeros(1)})


def test_convert_reads_the_names_of_the_authors_release():
    theirs, ours = build_pair("anchor_free", "aligned")
    released = {
        "layer_attention.0": "la_conv1",
        "layer_attention.2": "la_conv2",
        "cls_prob_module.0": "cls_prob_conv1",
        "cls_prob_module.2": "cls_prob_conv2",
        "reg_offset_module.0": "reg_offset_conv1",
        "reg_offset_module.2": "reg_offset_conv2",
    }
    state = {}
    for name, tensor in theirs.state_dict().items():
        for new, old in released.items():
            name = name.replace(new, old)
        state["bbox_head." + name] = tensor
    converted = {k.removeprefix("bbox_head."): v for k, v in convert(state).items()}
    ours.load_state_dict(converted, strict=True)


def test_anchor_based_needs_a_box_coder():
    config = head_config("anchor_based", initial_epoch=0) | {"bbox_coder": None}
    with pytest.raises(ValueError, match="needs a bbox_coder"):
        TOODHead(**config)
