"""Every head and backbone builds, trains and predicts while every compiled operator of mmcv raises."""

import sys

import mmcv.ops
import pytest
import torch
from helpers.detectors import batch, build
from helpers.runs import one_of_each_part
from mmdet.models.losses import FocalLoss as MMDetFocalLoss
from torchvision.ops import box_iou

from tood.models.common.layers import ModulatedDeformConv2d
from tood.models.common.losses import FocalLoss

DETECTORS = [*one_of_each_part(), "tood_af with DCN"]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


class Forbidden:
    """What stands for the module of compiled operators."""

    def __getattr__(self, name: str):
        raise AssertionError(f"compiled operator {name} called")


@pytest.fixture(autouse=True)
def no_compiled_operator(monkeypatch):
    loaded = [module for name, module in sys.modules.items() if name.startswith("mmcv.ops")]
    patched = [module for module in loaded if hasattr(module, "ext_module")]
    assert len(patched) > 40
    for module in patched:
        monkeypatch.setattr(module, "ext_module", Forbidden())


@pytest.fixture
def pretended_gpu(monkeypatch):
    """What mmdet asks before it takes the path of a GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda self: True))


def train_once(model, epoch: int) -> float:
    """One iteration's loss; its gradient must reach every parameter that learns."""
    model.bbox_head.set_progress(epoch, epoch / 12)
    model.zero_grad()
    data = model.train().data_preprocessor(batch(), training=True)
    loss, _ = model.parse_losses(model(**data, mode="loss"))
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    return loss.item()


def test_the_patch_bites(pretended_gpu):
    boxes, scores = torch.tensor([[0.0, 0, 4, 4]]), torch.ones(1)
    with pytest.raises(AssertionError, match="compiled operator nms called"):
        mmcv.ops.nms(boxes, scores, 0.5)
    with pytest.raises(AssertionError, match="compiled operator"):
        mmcv.ops.DeformConv2d(2, 2, 1)(torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 3, 3))
    with pytest.raises(AssertionError, match="compiled operator sigmoid_focal_loss_forward called"):
        MMDetFocalLoss()(torch.zeros(2, 3), torch.tensor([0, 3]))


def test_our_focal_loss_equals_the_one_that_needs_an_operator(pretended_gpu, monkeypatch):
    logits, labels = torch.randn(7, 3), torch.tensor([0, 3, 1, 2, 3, 3, 0])
    found = FocalLoss()(logits, labels)
    monkeypatch.undo()
    assert torch.equal(found, MMDetFocalLoss()(logits, labels))


@pytest.mark.parametrize("name", DETECTORS)
def test_training(name):
    model = build(name)
    for epoch in (0, 4):  # warm-up and alignment
        assert train_once(model, epoch) > 0


@pytest.mark.parametrize("name", DETECTORS)
def test_losses_as_on_a_gpu(name, pretended_gpu):
    model = build(name)
    model.train()
    with torch.no_grad():
        data = model.data_preprocessor(batch(), training=True)
        feats = model.extract_feat(data["inputs"])
        for epoch in (0, 4):
            model.bbox_head.set_progress(epoch, epoch / 12)
            losses = model.bbox_head.loss(feats, data["data_samples"])
            assert model.parse_losses(losses)[0].isfinite()


@pytest.mark.parametrize("name", DETECTORS)
def test_predicting_with_suppression(name):
    model = build(name).eval()
    cfg = model.bbox_head.test_cfg
    cfg.update(score_thr=0.0, max_per_img=100_000, score_voting=False)  # which moves boxes afterwards
    with torch.no_grad():
        for parameter in model.bbox_head.parameters():  # for boxes of many sizes, which overlap
            parameter += 0.1 * torch.randn_like(parameter)
        if name == "fcos":  # whose boxes start with sides of two pixels
            model.bbox_head.conv_reg.bias += 2
        data = model.data_preprocessor(batch())
        found = [sample.pred_instances for sample in model(**data, mode="predict")]
        outs = model.bbox_head(model.extract_feat(data["inputs"]))
        metas = [sample.metainfo for sample in data["data_samples"]]
        candidates = model.bbox_head.predict_by_feat(*outs, batch_img_metas=metas, with_nms=False)
    for kept, before in zip(found, candidates, strict=True):
        assert 0 < len(kept) < len(before)
        assert (kept.scores.diff() <= 0).all()
        overlap = box_iou(kept.bboxes, kept.bboxes).fill_diagonal_(0)
        same_class = kept.labels[:, None] == kept.labels
        assert (overlap[same_class] <= cfg.nms.iou_threshold + 1e-6).all()


def test_deformable_convolutions_are_where_the_configuration_puts_them():
    model = build("tood_af with DCN")
    places = {n for n, m in model.named_modules() if isinstance(m, ModulatedDeformConv2d)}
    assert {n for n in places if "bbox_head" in n} == {f"bbox_head.predictor.tower.{i}.conv" for i in (0, 1)}
    stages = {n.split(".")[1] for n in places if n.startswith("backbone")}
    assert stages == {"layer2", "layer3"}
