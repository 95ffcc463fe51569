"""A training: its loss, its steps, what is told to the head, and how it ends."""

import math

import numpy as np
import pytest
import torch
from helpers.odd_images import ODD, ODD_IMAGES, odd_dataset, write_images
from helpers.short_trainings import bits, configured, initialised, trained
from torch import nn

from tood.engine import trainer as loop
from tood.engine.checkpoint import Checkpoints
from tood.engine.loss_watch import LossWatch
from tood.engine.optimizer import build_optimizer
from tood.engine.schedule import learning_rate
from tood.models.common.layers import ModulatedDeformConv2d
from tood.runtime.failures import Diverged

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture
def every_iteration_logged(monkeypatch):
    monkeypatch.setattr(loop, "LOG_INTERVAL", 1)


@pytest.mark.parametrize(
    ("run", "options"),
    [
        # Warm-up alone or alignment alone: from one to the other the loss falls without any learning.
        ("atss_af_thead", {}),
        ("tood_af", {"model.train_cfg.initial_epoch": 0}),
        pytest.param("fovea_thead", {}, marks=pytest.mark.slow),
        pytest.param(
            "fovea_thead",
            {"model.bbox_head.loss_bbox": {"_delete_": True, "type": "tood.LogDistanceGIoULoss"}},
            marks=pytest.mark.slow,
        ),
        ("fcos_imprv_thead", {}),
        pytest.param("tal_tap_18e", {"model.train_cfg.initial_epoch": 0}, marks=pytest.mark.slow),
        # Of the schemes of Table 2 that mmdet lacks; MAL's loss is a logarithm that falls too slowly
        ("noisy_anchor", {}),
        ("paa", {}),
    ],
    ids=lambda value: value if isinstance(value, str) else ",".join(value) or "as declared",
)
@pytest.mark.usefixtures("every_iteration_logged")
def test_the_loss_falls(training_images, tmp_path, run, options):
    """On eight images, which soon are learnt."""
    config = configured(run, options | {"train.batch_size": 4, "train.warmup_iterations": 20})
    config.schedule = dict(epochs=10, milestones=[])
    assert_falling(*trained(training_images.get_subset(8), tmp_path, config, iterations=20)[1:])


@pytest.mark.usefixtures("every_iteration_logged")
def test_the_loss_of_qfl_falls(training_images, tmp_path):
    """Weights of boxes begin with a sum below the least divisor: for few images the loss rises first."""
    config = configured("atss_qfl", {"train.replica": 8})
    config.schedule = dict(epochs=8, milestones=[])
    assert_falling(*trained(training_images, tmp_path, config, iterations=40)[1:])


def assert_falling(summary: dict, entries: list[dict]) -> None:
    losses = [entry["loss"] for entry in entries]
    assert len(losses) == summary["iterations"] >= 20
    assert np.mean(losses[-5:]) < 0.93 * np.mean(losses[:5])
    for entry in entries:
        parts = [value for key, value in entry.items() if key.startswith("loss_") or key.endswith("_loss")]
        assert entry["loss"] == pytest.approx(sum(parts), rel=1e-5)


def test_a_seed_decides_every_bit(training_images, tmp_path):
    config = configured("tood_af")

    def weights(seed, initial=None, workers=0):
        model = initialised(config, seed if initial is None else initial)
        trained(training_images, tmp_path, config, seed, model, iterations=7, workers=workers)
        return bits(model)

    first = weights(0)
    assert weights(0) == first
    assert weights(0, workers=2) == first
    assert weights(1, initial=0) != first  # order and augmentation alone


@pytest.mark.usefixtures("every_iteration_logged")
def test_a_whole_schedule(training_images, tmp_path, monkeypatch):
    config = configured("tood_af", {"train.warmup_iterations": 4, "train.batch_size": 16})
    config.schedule = dict(epochs=3, milestones=[1, 2])
    model, told = initialised(config), []
    tell = model.bbox_head.set_progress
    monkeypatch.setattr(model.bbox_head, "set_progress", lambda *now: told.append(now) or tell(*now))
    _, summary, entries = trained(training_images, tmp_path, config, model=model)
    per_epoch = math.ceil(len(training_images) / 16)
    assert [epoch for epoch, _ in told] == [epoch for epoch in range(3) for _ in range(per_epoch)]
    assert (summary["iterations"], summary["images"]) == (3 * per_epoch, 3 * len(training_images))
    assert summary["images_per_second"] > 0
    assert summary["peak_memory_mb"] is None
    passed = [(iteration + 1) / per_epoch for iteration in range(3 * per_epoch)]
    assert [entry["epoch"] for entry in entries] == pytest.approx(passed)
    assert [entry["lr"] for entry in entries] == [
        learning_rate(
            iteration,
            base=config.train.lr,
            iterations_per_epoch=per_epoch,
            milestones=[1, 2],
            warmup_iterations=4,
            warmup_factor=config.train.warmup_factor,
            warmup="linear",
        )
        for iteration in range(3 * per_epoch)
    ]


@pytest.mark.usefixtures("every_iteration_logged")
def test_the_head_is_told_the_progress_and_asked_for_its_positives(training_images, tmp_path, monkeypatch):
    config = configured("mal", {"train.batch_size": 16})
    config.schedule = dict(epochs=4, milestones=[3])
    model, told = initialised(config), []
    tell = model.bbox_head.set_progress
    monkeypatch.setattr(model.bbox_head, "set_progress", lambda *now: told.append(now) or tell(*now))
    *_, entries = trained(training_images, tmp_path, config, model=model, iterations=5)
    assert [share for _, share in told] == pytest.approx([step / 12 for step in range(5)])  # of the schedule
    for entry in entries:
        assert entry["objects"] >= 8
        assert 1 <= entry["positives"] <= 40  # the size of a bag
        assert 0 < entry["positive_iou"] < 1


@pytest.mark.parametrize(("iterations", "recorded"), [(1, [1]), (5, [5]), (6, [5, 6]), (11, [5, 10, 11])])
def test_training_stops_after_so_many_iterations(training_images, tmp_path, iterations, recorded):
    """An entry per epoch of five iterations, and one of the last."""
    config = configured("atss_ab")
    _, summary, entries = trained(training_images, tmp_path, config, iterations=iterations)
    assert summary["iterations"] == iterations
    assert [entry["iteration"] for entry in entries] == recorded
    assert [entry["epoch"] for entry in entries] == [iteration / 5 for iteration in recorded]


def test_a_step_is_that_of_clipped_sgd(training_images, tmp_path):
    changes = {"train.warmup_iterations": 0, "train.weight_decay": 0.0, "train.grad_clip": 0.1}
    config = configured("tood_ab", changes | {"train.lr": 0.5})
    model = initialised(config)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trained(training_images, tmp_path, config, model=model, iterations=1)
    change = sum((p.detach() - before[name]).double().square().sum() for name, p in model.named_parameters())
    assert change.sqrt().item() == pytest.approx(0.5 * 0.1, rel=1e-3)


def test_momentum_and_weight_decay_act_on_every_parameter(training_images, tmp_path, monkeypatch):
    """Where the loss is flat, two steps are these of SGD with momentum."""
    lr, decay, momentum = 0.5, 0.1, 0.7
    changes = {"warmup_iterations": 0, "lr": lr, "weight_decay": decay, "momentum": momentum}
    config = configured("tood_af", {f"train.{key}": value for key, value in changes.items()})
    model = initialised(config)
    loss_by_feat = model.bbox_head.loss_by_feat
    monkeypatch.setattr(
        model.bbox_head, "loss_by_feat", lambda *a, **k: {n: 0 * v for n, v in loss_by_feat(*a, **k).items()}
    )
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trained(training_images, tmp_path, config, model=model, iterations=2)
    first = 1 - lr * decay
    second = first - lr * (momentum * decay + decay * first)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), before[name] * second, msg=name)


def spoil(monkeypatch, model, iteration: int, factor: float) -> list[int]:
    """Multiply the box loss of one iteration, from 1; the list has an entry for each call so far."""
    calls, loss_by_feat = [], model.bbox_head.loss_by_feat

    def spoilt(*args, **kwargs):
        calls.append(1)
        losses = loss_by_feat(*args, **kwargs)
        return losses | {"loss_bbox": losses["loss_bbox"] * factor} if len(calls) == iteration else losses

    monkeypatch.setattr(model.bbox_head, "loss_by_feat", spoilt)
    return calls


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_ends_the_training(training_images, tmp_path, monkeypatch, value):
    config = configured("tood_af", {"train.replica": 8})
    model = initialised(config)
    calls = spoil(monkeypatch, model, 4, value)
    with pytest.raises(Diverged, match=rf"{value} at iteration 3 \(epoch 0"):
        trained(training_images, tmp_path, config, model=model, iterations=10)
    assert len(calls) == 4
    assert all(parameter.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("end", ["log", "checkpoint", "stop"])
def test_as_on_a_gpu_a_loss_that_is_no_number_is_found_later(training_images, tmp_path, monkeypatch, end):
    """At the next entry of the log, checkpoint or end; no checkpoint holds what came after it."""
    monkeypatch.setattr(loop, "LossWatch", lambda at_once, describe: LossWatch(False, describe))
    config = configured("tood_af", {"train.replica": 8})
    model = initialised(config)
    calls = spoil(monkeypatch, model, 3, float("nan"))
    monkeypatch.setattr(loop, "LOG_INTERVAL", 4 if end == "log" else 100)
    checkpoints = Checkpoints(tmp_path / "saved", "identity", 10, {"log": 1, "checkpoint": 4}.get(end))
    if end == "log":  # not so often that the save would find it
        monkeypatch.setattr(checkpoints, "due", lambda done: done == 2)
    stop = (lambda: len(calls) == 4) if end == "stop" else (lambda: False)
    with pytest.raises(Diverged, match=r"nan at iteration 2 \(epoch 0, lr 0"):
        trained(
            training_images, tmp_path, config, model=model, iterations=20, checkpoints=checkpoints, stop=stop
        )
    assert len(calls) == 4
    saved = [path.name.split(".")[0] for path in sorted((tmp_path / "saved").glob("*.pth"))]
    assert saved == (["000000002"] if end == "log" else [])


def test_parts_of_a_batch_train_the_same(training_images, tmp_path):
    """In float64, as float32's last bit soon decides another assignment."""
    config = configured("tood_af", {"model.backbone.norm_eval": True})
    models = [initialised(config).double() for _ in range(3)]
    _, whole, parts = models
    trained(training_images, tmp_path, config, model=whole, iterations=6)
    trained(training_images, tmp_path, config, model=parts, iterations=6, micro_batch=3)
    for before, a, b in zip(*(model.parameters() for model in models), strict=True):
        assert (a - b).abs().max() <= 1e-9 * (a - before).abs().max()
    assert bits(whole) != bits(parts)  # they were computed in different ways


def test_parts_are_refused_where_batch_normalisation_learns(training_images, tmp_path):
    with pytest.raises(RuntimeError, match=r"norm_eval=true"):
        trained(training_images, tmp_path, configured("tood_af"), iterations=1, micro_batch=4)


def test_images_whose_only_object_is_a_crowd_train(tmp_path):
    crowds = {image: (size, [(2, 5, 5, 30, 30, 1)]) for image, (size, _) in ODD_IMAGES.items()}
    dataset = odd_dataset(write_images(tmp_path / "crowds", crowds), 0.5, (64, 64))
    config = configured("tood_af", {"model.train_cfg.initial_epoch": 1}, ODD)
    config.schedule.epochs = 2
    before = bits(model := initialised(config))
    _, summary, records = trained(dataset, tmp_path, config, model=model)
    assert summary["iterations"] == 2 * math.ceil(len(dataset) / 8)
    assert all(record["objects"] == 0 and record["loss_bbox"] == 0 < record["loss"] for record in records)
    assert bits(model) != before  # the background trains, and nothing becomes NaN by it
    assert all(parameter.isfinite().all() for parameter in model.parameters())


# The optimiser


def test_biases_of_offsets_have_no_rate_of_their_own():
    """As those of mmcv's deformable layers in mmengine; other biases have twice the rate and no decay."""
    model = nn.ModuleDict({"dcn": ModulatedDeformConv2d(2, 2, 3, bias=True), "conv": nn.Conv2d(2, 2, 1)})
    train_cfg = configured("fcos").train
    assert (train_cfg.bias_lr_mult, train_cfg.bias_decay_mult) == (2.0, 0.0)
    groups = build_optimizer(model, train_cfg).param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {names[id(p)]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    plain, bias = (train_cfg.lr, train_cfg.weight_decay), (2 * train_cfg.lr, 0.0)
    assert found.pop("conv.bias") == bias
    assert found.pop("dcn.bias") == bias
    assert set(found.values()) == {plain}
    assert "dcn.conv_offset.bias" in found


def test_parameters_of_equal_settings_are_updated_as_one_group():
    """As one by one, to the bit, momentum and a changed rate included."""
    train_cfg = configured("fcos_imprv").train
    one, other = (initialised(configured("fcos_imprv")) for _ in range(2))
    optimizer = build_optimizer(one, train_cfg)
    assert len(optimizer.param_groups) == 3  # biases, those of norms, and all others
    settings = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    groups = [
        {"params": [theirs]} | {name: settings[id(ours)][name] for name in ("lr", "weight_decay", "momentum")}
        for ours, theirs in zip(one.parameters(), other.parameters(), strict=True)
    ]
    apart = torch.optim.SGD(groups, fused=True)
    for step in range(3):
        for ours, theirs in zip(one.parameters(), other.parameters(), strict=True):
            ours.grad = torch.randn_like(ours)
            theirs.grad = ours.grad.clone()
        for each in (optimizer, apart):
            for group in each.param_groups:
                group["lr"] *= 1 + step
            each.step()
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
