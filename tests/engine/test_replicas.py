"""The gradient of a batch is the mean over its replicas, as mmdet's processes compute it."""

import pytest
import torch
from helpers.gradients import (
    THEIRS,
    assert_same,
    gradients,
    make_model,
    make_replicas,
    whole_batch,
)
from helpers.replicas import gradient_here, launch
from helpers.runs import one_of_each_head

from tood.data.loading import LocalBatch
from tood.engine.replicas import batch_gradient, passes_of, require_separable
from tood.models.common.divisors import Divisors
from tood.runtime.failures import Diverged

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
RUNS = one_of_each_head()

# One head for each way to know the divisors of a loss, heads that count over a training or draw samples, and
# some early in a training. tests/models/test_contract.py compares every head with mmdet's processes.
CASES = [
    *(f"{run}:4:4" for run in ("tood_af", "atss_ab", "retinanet", "gfl_r101", "freeanchor", "noisy_anchor")),
    *("iqdet_x101_64x4d_dcn:4:4", "tood_ab:0:4", "sapd_r101:0:4", "tood_ab:4:3", "paa_r101:4:3"),
    # Two images are one replica, which two processes cannot share; five are three.
    *(f"{run}:4:{images}" for run in ("tood_af", "atss_ab", "gfl_r101", "fovea") for images in (2, 5)),
]


def test_two_processes_have_the_gradient_of_one(tmp_path):
    """Also where one has no replica."""
    found = launch("ours", 2, CASES, tmp_path)
    for case in CASES:
        assert_same(found[case], gradient_here(case, None))


def test_every_head_of_mmdet_is_the_reference():
    heads = {make_model(run, 4).bbox_head.__class__.__mro__ for run in RUNS}
    own = {kind.__name__ for mro in heads for kind in mro if kind.__module__.startswith("mmdet.")}
    bases = {"BaseDenseHead", "AnchorHead", "AnchorFreeHead"}
    assert own - bases <= {change["type"] for change in THEIRS.values()}


# What the exactness tests would not see


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("run", ["tood_af", "retinanet", "gfl_r101"])
def test_the_replica_matters(run):
    """Padding and divisors of four images are others than those of two."""
    found = []
    for replica in (2, 4):
        model = make_model(run, 4)
        batch_gradient(model, whole_batch(8, replica))
        found.append({name: grad for name, grad in gradients(model).items() if grad is not None})
    with pytest.raises(AssertionError):
        assert_same(*found, relative=1e-3)


@pytest.mark.usefixtures("double")
def test_averaging_without_the_divisors_of_others_is_another_gradient():
    model, averaged = make_model("atss_ab", 4), {}
    for replica in make_replicas(8):
        batch_gradient(model, LocalBatch([replica], 1))
        for name, grad in gradients(model).items():
            averaged[name] = None if grad is None else averaged.get(name, 0) + grad / 4
    model = make_model("atss_ab", 4)
    batch_gradient(model, whole_batch(8))
    with pytest.raises(AssertionError):
        assert_same(averaged, gradients(model), relative=1e-3)


# How it is computed


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(
    ("run", "epoch", "micro_batch", "passes"),
    [
        ("tood_af", 0, 2, [2, 2]),  # divisors from targets
        ("tood_af", 4, 2, [2, 2]),  # one divisor
        ("fcos_imprv", 4, 2, [2, 2]),
        ("retinanet", 4, 2, [2, 2]),  # no divisor of others
        ("gfl_r101", 4, 2, [2, 2, 2, 2]),  # divisors from predictions: twice
        ("gfl_r101", 4, 4, [2, 2]),  # all activations are kept
        ("tood_af", 4, 1, [1] * 8),  # a replica in parts
    ],
)
def test_how_often_the_network_computes(run, epoch, micro_batch, passes, monkeypatch):
    model, calls = make_model(run, epoch), []
    extract_feat = model.extract_feat
    monkeypatch.setattr(model, "extract_feat", lambda x: calls.append(len(x)) or extract_feat(x))
    batch_gradient(model, whole_batch(4), micro_batch)
    assert calls == passes


def test_replicas_of_one_size_go_together():
    shapes = [(2, 3, 64, 96), (2, 3, 96, 64), (2, 3, 64, 96), (1, 3, 64, 96), (2, 3, 96, 64)]
    assert [[piece.replica for piece in pieces] for pieces in passes_of(shapes, 4)] == [[0, 2], [1, 4], [3]]
    assert [[piece.replica for piece in pieces] for pieces in passes_of(shapes, 16)] == [[0, 2, 3], [1, 4]]
    assert [len(pieces) for pieces in passes_of(shapes, 2)] == [1] * 5


def test_a_replica_that_is_too_large_is_taken_apart():
    pieces = [[(piece.replica, piece.images) for piece in part] for part in passes_of([(4, 3, 8, 8)] * 2, 3)]
    assert pieces == [
        [(0, slice(0, 3))],
        [(0, slice(3, 4))],
        [(1, slice(0, 3))],
        [(1, slice(3, 4))],
    ]


@pytest.mark.parametrize("micro_batch", [None, 2, 1])
@pytest.mark.parametrize("run", ["tood_af", "gfl_r101"])
@pytest.mark.usefixtures("double")
def test_predictions_are_observed(run, micro_batch):
    seen = []

    def observe(outs, gt, metas) -> None:
        assert not any(level.requires_grad for kind in outs for level in kind)
        assert len(outs[0][0]) == len(gt) == len(metas)
        seen.extend(meta["img_id"] for meta in metas)

    batch_gradient(make_model(run, 4), whole_batch(5), micro_batch, observe=observe)
    assert seen == [0, 1, 2, 3, 4]


@pytest.mark.usefixtures("double")
def test_losses_are_means_over_replicas():
    model, of_replicas = make_model("retinanet", 4), []
    for replica in make_replicas(6):
        of_replicas.append(batch_gradient(model, LocalBatch([replica], 1)))
    for micro_batch in (None, 1):
        found = batch_gradient(model, whole_batch(6), micro_batch)
        assert found.keys() == {"loss", "loss_cls", "loss_bbox"}
        for name, loss in found.items():
            torch.testing.assert_close(loss, sum(each[name] for each in of_replicas) / 3)


def test_batch_normalisation_is_refused():
    frozen, training = make_model("tood_af", 0), make_model("tood_af", 0, {"model.backbone.norm_eval": False})
    require_separable(frozen, 16, 2)
    require_separable(training, 16, 16)
    require_separable(training, 16, None)
    with pytest.raises(RuntimeError, match=r"backbone.bn1.*2 of 16 at a time.*norm_eval=true"):
        require_separable(training, 16, 2)


@pytest.mark.usefixtures("double")
def test_trained_batch_normalisation_sees_the_whole_batch():
    """Its statistics are those of all images, also where replicas have sizes of their own."""
    model = make_model("tood_af", 4, {"model.backbone.norm_eval": False})
    replicas = make_replicas(6)
    assert len({tuple(data["inputs"][0].shape) for data in replicas}) > 1
    seen, layer = [], model.backbone.bn1
    layer.register_forward_hook(lambda module, inputs, outputs: seen.append(inputs[0].shape[0]))
    batch_gradient(model, LocalBatch(replicas, len(replicas)))
    assert seen == [6]


@pytest.mark.usefixtures("double")
def test_with_trained_batch_normalisation_images_are_padded_as_one_batch():
    """To the size that one replica of all images has; how much of it is an image stays known."""
    model = make_model("tood_af", 4, {"model.backbone.norm_eval": False})
    keys = ("img_shape", "pad_shape", "batch_input_shape")

    def shapes(replica: int) -> list[dict]:
        metas: list[dict] = []
        batch_gradient(model, whole_batch(6, replica), observe=lambda outs, gt, own: metas.extend(own))
        return [{key: tuple(meta[key]) for key in keys} for meta in metas]

    found = shapes(2)
    assert found == shapes(6)
    assert len({meta["pad_shape"] for meta in found}) > 1


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(
    ("run", "divisors"),
    [("atss_ab", Divisors.NONE), ("retinanet", Divisors.SHARED), ("fovea", Divisors.SHARED)],
)
def test_wrong_divisors_are_refused(run, divisors, monkeypatch):
    model = make_model(run, 4)
    monkeypatch.setattr(type(model.bbox_head), "divisors", divisors)
    with pytest.raises(TypeError, match=rf"its `divisors` are {divisors.name}"):
        batch_gradient(model, whole_batch(4))


@pytest.mark.usefixtures("double")
def test_a_loss_that_cannot_be_evaluated_is_a_divergence():
    """PAA's does not come out as NaN: scikit-learn refuses such predictions."""
    model = make_model("paa_iou", 4)
    model.bbox_head.cls_convs[0].conv.weight.data.fill_(float("nan"))
    with pytest.raises(Diverged, match="predictions are not finite"):
        batch_gradient(model, whole_batch(2))


@pytest.mark.usefixtures("double")
def test_a_head_that_says_nothing_of_its_divisors_is_right(monkeypatch):
    """What a new method gets: its loss is evaluated when all predictions are there."""
    model = make_model("atss_ab", 4)
    batch_gradient(model, whole_batch(5), 2)
    expected = gradients(model)
    model = make_model("atss_ab", 4)
    monkeypatch.setattr(type(model.bbox_head), "divisors", Divisors.PREDICTIONS)
    batch_gradient(model, whole_batch(5), 2)
    assert_same(gradients(model), expected)
