"""What can be known of the path on a GPU where there is none."""

import pytest
import torch
from helpers.detectors import CATEGORIES, MODELS, batch, build
from helpers.fake_device import DRIVERLESS, CopiesFromHost, Preprocessed, fake, move, moved
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

from tood.data.loading import LocalBatch
from tood.engine.config import build_model, place_anchors, resolve
from tood.engine.replicas import batch_gradient
from tood.models.common import dense_prediction
from tood.models.tood import tood_head
from tood.study.plan import Plan

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
EPOCHS = (0, 4)  # warm-up, and after it

# A real step, while any tensor that is made without a device has none: it cannot meet another one.


def preprocessed(model, training: bool) -> dict:
    data = model.data_preprocessor(batch(), training=training)
    del model.data_preprocessor
    model.data_preprocessor = Preprocessed(data)
    return data


@pytest.mark.parametrize("name", MODELS)
def test_training_makes_tensors_where_the_others_are(name):
    model = build(name).train()
    data = preprocessed(model, training=True)
    for epoch in EPOCHS:
        model.bbox_head.set_progress(epoch, epoch / 12)
        with torch.device("meta"):
            losses = batch_gradient(model, LocalBatch([data], 1))
        assert losses["loss"] > 0


@pytest.mark.parametrize("name", MODELS)
def test_predicting_makes_tensors_where_the_others_are(name, monkeypatch):
    def nms(*args) -> Tensor:
        with torch.device("cpu"):  # torchvision copies a scalar
            return batched_nms(*args)

    batched_nms = dense_prediction.batched_nms
    monkeypatch.setattr(dense_prediction, "batched_nms", nms)
    model = build(name).eval()
    model.bbox_head.test_cfg.update(score_thr=0.0)
    data = preprocessed(model, training=False)
    with torch.no_grad(), torch.device("meta"):
        found = model.predict(data["inputs"], data["data_samples"])
    assert len(found[0].pred_instances) > 0


def test_a_tensor_without_a_device_is_found(monkeypatch):
    monkeypatch.setattr(tood_head, "anchor_centres", lambda a: a[..., :2] + torch.ones(len(a), 2))
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        test_training_makes_tensors_where_the_others_are("tood_af")


# A step of fake tensors. It stops where the host would wait for a value, or where devices are mixed.

STATIC = (
    *("tood_af", "tood_ab", "atss_af", "atss_ab", "atss_af_thead", "atss_ab_thead", "tal", "tal_tap_18e"),
    *("fcos", "fcos_imprv", "fcos_imprv_thead", "fovea", "fovea_thead", "retinanet", "freeanchor", "mal"),
)


# What mmdet still makes on the host: the small number of an IoU, and the means and deviations of a box coder.
COPIED = {(1,), (4,)}


def step(run: str, epoch: int, device: str, replicas: int = 1) -> set[tuple[int, ...]]:
    """Shapes of what the step copies to the device, replica by replica; on "cuda" it ends with the losses."""
    config = resolve(Plan({}).settings(run), CATEGORIES, None)
    config.model.backbone.norm_eval = True
    data = build_model(config).data_preprocessor(batch(), training=True)
    with fake(device) as to:
        model = build_model(config).train()
        move(model, to)
        place_anchors(model.bbox_head, torch.device(device))
        there = moved(data, to)
        del model.data_preprocessor
        model.data_preprocessor = Preprocessed(there)
        model.bbox_head.set_progress(epoch, epoch / 12)
        with CopiesFromHost() as copies:
            if device == DRIVERLESS:
                losses = batch_gradient(model, LocalBatch([there] * replicas, replicas), micro_batch=2)
                for name, parameter in model.named_parameters():
                    assert (parameter.grad is None) != parameter.requires_grad, name
            else:
                losses = model.loss(there["inputs"], there["data_samples"])
        assert all(value.device.type == torch.device(device).type for value in losses.values())
    return copies.shapes


@pytest.mark.parametrize("epoch", EPOCHS)
@pytest.mark.parametrize("run", STATIC)
@pytest.mark.parametrize("device", ["cuda", DRIVERLESS])
def test_the_host_waits_for_no_value(run, epoch, device):
    assert step(run, epoch, device) <= COPIED


@pytest.mark.parametrize("epoch", EPOCHS)
@pytest.mark.parametrize("run", ["tood_af", "atss_ab"])
def test_nor_does_it_with_several_replicas(run, epoch):
    assert step(run, epoch, DRIVERLESS, replicas=2) <= COPIED


@pytest.mark.parametrize("run", ["tood_af", "atss_ab"])
def test_nor_for_dense_predictions(run):
    config = resolve(Plan({}).settings(run), CATEGORIES, None)
    data = build_model(config).data_preprocessor(batch(), training=False)
    with fake("cuda") as to, torch.no_grad():
        model = build_model(config).eval()
        move(model, to)
        place_anchors(model.bbox_head, torch.device("cuda"))
        there = moved(data, to)
        outs = model.bbox_head(model.extract_feat(there["inputs"]))
        metas = [sample.metainfo for sample in there["data_samples"]]
        (first, _), (level, *_) = model.bbox_head.dense_by_feat(*outs, batch_img_metas=metas), outs[0]
    assert first[0].boxes.device.type == "cuda"
    assert first[0].boxes.shape == (level[0, 0].numel(), 4)


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (lambda a: a.mean(-1).nonzero(), DynamicOutputShapeException),
        (lambda a: a[..., :2] * float(a.sum()), DataDependentOutputException),
        (lambda a: a[..., :2] + torch.ones(len(a), 2), RuntimeError),  # on the host
    ],
    ids=["nonzero", "item", "devices"],
)
def test_a_wait_is_found(monkeypatch, wrong, error):
    monkeypatch.setattr(tood_head, "anchor_centres", wrong)
    with pytest.raises(error):
        step("tood_af", 4, "cuda")
