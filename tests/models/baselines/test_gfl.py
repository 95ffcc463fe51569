"""GFL against mmdet's head; GFLV2 against GFL, and against the arithmetic of its release."""

import math

import pytest
import torch
import torch.nn.functional as F
from helpers.mmdet_heads import (
    assert_same_detections,
    assert_same_gradients,
    assert_same_losses,
    detections,
    doubled,
    narrow_mmdet_head,
    total,
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
from mmdet.models.losses import QualityFocalLoss
from mmdet.registry import MODELS
from mmengine.registry import init_default_scope
from torch.func import functional_call

from tood.models.baselines.gflv2 import distribution_statistics, product_logits

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
GFL = "gfl/gfl_r50_fpn_1x_coco.py"
BINS = 17
CASES = pytest.mark.parametrize(
    "gts",
    [GTS, [objects(), OVERLAPPING], [SEVERAL, objects()], [objects(), objects()]],
    ids=["several", "first empty", "second empty", "empty"],
)
# The second image is scaled and padded.
SCALED = [METAS[0], {**METAS[1], "scale_factor": (0.5, 0.7)}]


@pytest.fixture(autouse=True, scope="module")
def mmdet_scope():
    init_default_scope("mmdet")


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def double_features() -> tuple[torch.Tensor, ...]:
    return tuple(level.double() for level in features())


def gfl_pair():
    """Ours and mmdet's, with the same weights."""
    ours, theirs = narrow_head("gfl.py").double(), narrow_mmdet_head(GFL).double()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    return ours, theirs


# GFL


@CASES
@pytest.mark.usefixtures("double")
def test_losses_and_gradients_are_mmdets(gts):
    ours, theirs = gfl_pair()
    losses = []
    for head in (ours, theirs):
        losses.append(head.loss_by_feat(*head(double_features()), doubled(gts), METAS))
        sum(total(losses[-1]).values()).backward()
    assert losses[0].keys() == {"loss_cls", "loss_bbox", "loss_dfl"}
    assert_same_losses(*losses)
    assert_same_gradients(ours, theirs)


@pytest.mark.usefixtures("double", "torchvision_operators")
def test_detections_are_mmdets():
    ours, theirs = (head.eval() for head in gfl_pair())
    with torch.no_grad():
        assert_same_detections(*detections(ours, theirs, theirs(double_features()), SCALED))


def test_positives_are_those_of_the_loss():
    ours, theirs = gfl_pair()
    ours, theirs = ours.float(), theirs.float()
    outs = theirs(features())
    grids = [maps.shape[-2:] for maps in outs[0]]
    anchors, flags = theirs.get_anchors(grids, METAS, device="cpu")
    _, labels, _, boxes, _, number = theirs.get_targets(anchors, flags, GTS, METAS)
    labels, boxes = torch.cat(labels, 1), torch.cat(boxes, 1)  # [B, A], [B, A, 4]
    found = ours.positives_by_feat(*outs, batch_gt_instances=GTS, batch_img_metas=METAS)
    assert sum(len(image.anchors) for image in found) == number
    for image, label, box, gt in zip(found, labels, boxes, GTS, strict=True):
        assert image.anchors.tolist() == (label < 5).nonzero().flatten().tolist()
        assert torch.equal(box[image.anchors], gt.bboxes[image.objects])


def test_boxes_of_flat_and_of_peaked_distributions():
    """The mean of 0 to 16 is 8 strides; one bin alone is its number."""
    head = narrow_head("gfl.py")
    logits, flat = torch.zeros(1, 5, 2, 3), torch.zeros(1, 4 * BINS, 2, 3)
    peaked = F.one_hot(torch.tensor([1, 2, 3, 16]), BINS).flatten()[None, :, None, None] * 1000.0
    outs = [logits] * 5, [flat, peaked.expand(1, -1, 2, 3), flat, flat, flat]
    metas = [{"img_shape": (600, 600)}]
    (levels,) = head.dense_by_feat(*outs, batch_img_metas=metas, clip=False)
    assert levels[0].points.tolist() == [[x, y] for y in (0, 8) for x in (0, 8, 16)]
    assert levels[0].boxes[4].tolist() == pytest.approx([8 - 64, 8 - 64, 8 + 64, 8 + 64])
    assert levels[1].boxes[4].tolist() == pytest.approx([16 - 16, 16 - 32, 16 + 48, 16 + 16 * 16])
    assert levels[1].scores.tolist() == [[0.5] * 5] * 6


# GFLV2: the pure functions


def logits_of(*sides: list[float]) -> torch.Tensor:
    """One location whose sides have these probabilities, up to their sum."""
    return torch.tensor(sides, dtype=torch.float64).log().flatten()[None, :, None, None]


def test_statistics_by_hand():
    sides = [0.1, 0.4, 0.3, 0.2], [0.25, 0.25, 0.25, 0.25], [0.7, 0.1, 0.05, 0.15], [0.02, 0.03, 0.05, 0.9]
    found = distribution_statistics(logits_of(*sides), bins=4, topk=2).flatten().tolist()
    expected = [0.4, 0.3, 0.35, 0.25, 0.25, 0.25, 0.7, 0.15, 0.425, 0.9, 0.05, 0.475]
    assert found == pytest.approx(expected)


def test_the_mean_is_of_the_largest_and_not_of_all():
    """Of all bins it would be 1 / 17, whatever the distribution."""
    sides = [[1.0] * 13 + [9.0, 7.0, 3.0, 2.0]] * 4  # of 34
    first, second, third, fourth, mean = (
        distribution_statistics(logits_of(*sides), BINS, 4).flatten()[:5].tolist()
    )
    assert [first, second, third, fourth] == pytest.approx([9 / 34, 7 / 34, 3 / 34, 2 / 34])
    assert mean == pytest.approx(21 / 34 / 4)


def test_statistics_of_maps_are_those_of_each_location():
    """Against a loop; the order of channels is side by side, each falling and then its mean."""
    logits = rand(2, 4 * BINS, 3, 5)
    found = distribution_statistics(logits, BINS, 4)
    assert found.shape == (2, 20, 3, 5)
    for b, y, x in ((0, 0, 0), (1, 2, 4), (1, 0, 3)):
        expected = []
        for side in range(4):
            p = torch.exp(logits[b, side * BINS : (side + 1) * BINS, y, x])
            largest = sorted((p / p.sum()).tolist(), reverse=True)[:4]
            expected += [*largest, sum(largest) / 4]
        assert found[b, :, y, x].tolist() == pytest.approx(expected)


def test_product_logits_are_the_logit_of_the_product():
    a, b = rand(50, 7) * 4, rand(50, 1, seed=1) * 4
    torch.testing.assert_close(
        product_logits(a, b), (a.sigmoid() * b.sigmoid()).logit(), rtol=1e-9, atol=1e-12
    )
    torch.testing.assert_close(
        product_logits(a, b).sigmoid(), a.sigmoid() * b.sigmoid(), rtol=1e-12, atol=1e-15
    )


@pytest.mark.parametrize("a", [-200.0, -30.0, 0.0, 30.0, 200.0])
@pytest.mark.parametrize("b", [-200.0, -30.0, 0.0, 30.0, 200.0])
def test_product_logits_where_sigmoids_round(a, b):
    """In float32: the smaller logit where the other one is certain, their sum where both are hopeless."""
    logits = torch.tensor([a, b], requires_grad=True)
    joint = product_logits(logits[0], logits[1])
    joint.backward()
    ea, eb = (torch.tensor(x, dtype=torch.float64) for x in (-a, -b))
    expected = -torch.logsumexp(torch.stack([ea, eb, ea + eb]), 0)
    assert joint.item() == pytest.approx(expected.item(), rel=1e-6, abs=1e-6)
    assert logits.grad.isfinite().all()
    # Each logit counts as far as the other one lets it.
    denominator = math.exp(expected.item())
    for grad, e in zip(logits.grad.tolist(), (ea, eb), strict=True):
        share = math.exp(e.item()) + math.exp((ea + eb).item())
        assert grad == pytest.approx(share * denominator, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("beta", [2.0, 1.0])
def test_quality_focal_loss_of_the_product_is_that_of_the_release(beta):
    """QFL with plain cross entropy on the product of two sigmoids: values, and gradients of both logits."""
    cls, quality = (rand(40, 5) * 3), (rand(40, 1, seed=1) * 2)
    labels = torch.randint(0, 6, (40,), generator=torch.Generator().manual_seed(2))
    target = torch.rand(40, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * (labels < 5)
    results = []
    for activated in (False, True):
        leaves = cls.clone().requires_grad_(), quality.clone().requires_grad_()
        scores = leaves[0].sigmoid() * leaves[1].sigmoid() if activated else product_logits(*leaves)
        loss = QualityFocalLoss(beta=beta, activated=activated)(scores, (labels, target), avg_factor=7.0)
        results.append([loss, *torch.autograd.grad(loss, leaves)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


# GFLV2: the head


def v2_head(quality: float | None = None):
    """In float64; with a quality logit it is that, whatever the distributions."""
    head = narrow_head("gflv2.py").double()
    if quality is not None:
        torch.nn.init.zeros_(head.reg_conf[2].weight)
        torch.nn.init.constant_(head.reg_conf[2].bias, quality)
    return head


def test_parameters_are_those_of_the_release():
    head, gfl = v2_head(), narrow_head("gfl.py")
    extra = {name: tuple(value.shape) for name, value in head.state_dict().items()}
    for name, value in gfl.state_dict().items():
        assert extra.pop(name) == tuple(value.shape)
    assert extra == {
        "reg_conf.0.weight": (64, 20, 1, 1),
        "reg_conf.0.bias": (64,),
        "reg_conf.2.weight": (1, 64, 1, 1),
        "reg_conf.2.bias": (1,),
    }
    names = list(dict(head.named_parameters()))
    assert names[-4:] == list(extra)


def test_initial_weights():
    """All convolutions, the quality's too, N(0, 0.01); a score starts as 0.01 times a half."""
    model = configuration("gflv2.py").model
    settings = {key: model.get(key) for key in ("train_cfg", "test_cfg")}
    head = MODELS.build({**model.bbox_head, **settings})
    head.init_weights()
    convolutions = {name: m for name, m in head.named_modules() if isinstance(m, torch.nn.Conv2d)}
    assert len(convolutions) == 4 + 4 + 2 + 2
    for name, module in convolutions.items():
        tolerance = 0.35 if module.weight.numel() < 100 else 0.1
        assert module.weight.std().item() == pytest.approx(0.01, rel=tolerance), name
        if module.bias is not None and name != "gfl_cls":
            assert not module.bias.any(), name
    with torch.no_grad():
        logits, _ = head([torch.zeros(1, 256, 4, 4)] * 5)
    assert logits[0].sigmoid().mean().item() == pytest.approx(0.005, rel=0.02)


@CASES
@pytest.mark.usefixtures("double")
def test_with_a_quality_of_one_the_losses_are_gfls(gts):
    head, (_, gfl) = v2_head(quality=1000.0), gfl_pair()
    gfl.load_state_dict(head.state_dict(), strict=False)
    losses = []
    for each in (head, gfl):
        losses.append(each.loss_by_feat(*each(double_features()), doubled(gts), METAS))
        sum(total(losses[-1]).values()).backward()
    assert_same_losses(*losses)
    for name, parameter in gfl.named_parameters():
        grad = head.get_parameter(name).grad
        torch.testing.assert_close(grad, parameter.grad, rtol=1e-9, atol=1e-12, msg=name)


@pytest.mark.usefixtures("double", "torchvision_operators")
def test_with_a_quality_of_one_the_detections_are_gfls():
    head, (_, gfl) = v2_head(quality=1000.0).eval(), gfl_pair()
    gfl.load_state_dict(head.state_dict(), strict=False)
    with torch.no_grad():
        ours, theirs = head(double_features()), gfl.eval()(double_features())
        for maps, others in zip(ours, theirs, strict=True):
            for a, b in zip(maps, others, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
        assert_same_detections(*detections(head, gfl, ours, SCALED))


def released_outs(head, x) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """What the release's forward gives, from mmdet's GFL with our parameters: scores are probabilities."""
    gfl = narrow_mmdet_head(GFL).double()
    state = {name: value for name, value in head.named_parameters() if not name.startswith("reg_conf")}
    logits, distributions = functional_call(gfl, state, (x,))
    scores = []
    for cls, sides in zip(logits, distributions, strict=True):
        B, _, H, W = sides.shape
        probabilities = F.softmax(sides.reshape(B, 4, BINS, H, W), dim=2)
        largest, _ = probabilities.topk(4, dim=2)
        statistics = torch.cat([largest, largest.mean(dim=2, keepdim=True)], dim=2).reshape(B, -1, H, W)
        hidden = F.relu(F.conv2d(statistics, head.reg_conf[0].weight, head.reg_conf[0].bias))
        quality = torch.sigmoid(F.conv2d(hidden, head.reg_conf[2].weight, head.reg_conf[2].bias))
        scores.append(torch.sigmoid(cls) * quality)
    return scores, distributions


def released_head(monkeypatch):
    """mmdet's GFL for scores that are probabilities: its QFL takes them, and no sigmoid is taken again."""
    head = narrow_mmdet_head(GFL, loss_cls=dict(activated=True)).double()
    monkeypatch.setattr(torch.Tensor, "sigmoid", lambda probabilities: probabilities)
    return head


@CASES
@pytest.mark.usefixtures("double")
def test_losses_and_gradients_are_the_releases(gts, monkeypatch):
    """The weights of boxes and distributions too, which are the largest joint score of each positive."""
    ours, theirs = v2_head(), v2_head()
    found = ours.loss_by_feat(*ours(double_features()), doubled(gts), METAS)
    sum(total(found).values()).backward()
    scores, distributions = released_outs(theirs, double_features())
    reference = released_head(monkeypatch)
    expected = reference.loss_by_feat(scores, distributions, doubled(gts), METAS)
    sum(total(expected).values()).backward()
    assert_same_losses(found, expected)
    assert_same_gradients(ours, theirs)


@pytest.mark.usefixtures("double", "torchvision_operators")
def test_detections_are_the_releases(monkeypatch):
    head = v2_head().eval()
    with torch.no_grad():
        cfg = head.test_cfg | dict(nms_pre=100, nms_pre_by="pair")
        found = head.predict_by_feat(*head(double_features()), batch_img_metas=SCALED, cfg=cfg, rescale=True)
        outs = released_outs(head, double_features())
        reference = released_head(monkeypatch)
        cfg = reference.test_cfg | dict(nms_pre=100)
        expected = reference.predict_by_feat(*outs, batch_img_metas=SCALED, cfg=cfg, rescale=True)
    assert_same_detections(found, expected)


def test_the_score_learns_through_the_distributions():
    """Not detached: QFL alone moves the predictor, and through its statistics the regression tower."""
    head, gfl = narrow_head("gflv2.py"), narrow_head("gfl.py")
    for each in (head, gfl):
        each.loss_by_feat(*each(features()), GTS, METAS)["loss_cls"].backward()
    assert gfl.gfl_reg.weight.grad is None
    for parameter in (*head.reg_conf.parameters(), head.gfl_reg.weight, head.reg_convs[0].conv.weight):
        assert parameter.grad.abs().sum() > 0
        assert parameter.grad.isfinite().all()


def test_the_weights_of_boxes_do_not_learn():
    head = narrow_head("gflv2.py")
    losses = head.loss_by_feat(*head(features()), GTS, METAS)
    (losses["loss_bbox"] + losses["loss_dfl"]).backward()
    assert head.gfl_reg.weight.grad.abs().sum() > 0
    for parameter in (head.gfl_cls.weight, *head.reg_conf.parameters()):
        assert parameter.grad is None
