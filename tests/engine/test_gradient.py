"""The gradient of a batch is the same in one piece, in parts and on several processes."""

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.gradients import (
    assert_same,
    collated,
    gradients,
    loss_group_of,
    make_batch,
    make_model,
    plain_gradients,
)
from helpers.runs import one_of_each_head

from tood.engine.gradient import batch_gradient, require_separable
from tood.runtime.failures import Diverged

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
RUNS = one_of_each_head()
# Those whose first epochs have another assignment or another use of levels
TWO_STAGES = [run for run in RUNS if run.startswith(("tal", "sapd"))]
# Warm-up, and after it.
EPOCHS = (0, 4)


def by_parts(run: str, epoch: int, images: int, at_once: int) -> tuple[dict, dict]:
    """Gradients in parts and in one piece."""
    model, loss_group = make_model(run, epoch), loss_group_of(run)
    batch_gradient(model, collated(make_batch(images)), at_once, loss_group)
    found = gradients(model)
    return found, plain_gradients(make_model(run, epoch), images, loss_group)


@pytest.mark.parametrize("epoch", EPOCHS)
@pytest.mark.parametrize("at_once", [16, 2, 1, 5])
def test_tood_in_parts(epoch, at_once):
    assert_same(*by_parts("tood_af", epoch, 16, at_once))


@pytest.mark.parametrize("run", RUNS)
def test_every_head_in_parts(run):
    assert_same(*by_parts(run, 4, 4, 1))


@pytest.mark.parametrize("at_once", [16, 3])
@pytest.mark.parametrize("run", [run for run in RUNS if loss_group_of(run)])
def test_loss_groups_of_a_short_batch(run, at_once):
    """Nine images: the last group is smaller; with three at a time, passes cut across groups."""
    assert_same(*by_parts(run, 4, 9, at_once))


def test_the_group_matters():
    """What the exactness tests would not see if the losses of groups were those of the batch."""
    model = make_model("retinanet", 4)
    whole = {name: grad.clone() for name, grad in plain_gradients(model, 8).items() if grad is not None}
    grouped = {name: grad for name, grad in plain_gradients(model, 8, 2).items() if grad is not None}
    with pytest.raises(AssertionError):
        assert_same(grouped, whole, relative=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("run", RUNS)
def test_every_head_in_many_parts(run):
    assert_same(*by_parts(run, 4, 16, 2))


@pytest.mark.slow
@pytest.mark.parametrize("run", [*TWO_STAGES, "tood_ab", "tood_r101_dcn"])
def test_heads_that_begin_in_another_way_in_many_parts(run):
    assert_same(*by_parts(run, 0, 16, 2))


def on_processes(folder: Path, processes: int, cases: list[str]) -> None:
    program = [Path(sys.executable).with_name("torchrun"), "--standalone", "--nproc-per-node", processes]
    program += [inspect.getsourcefile(make_model), folder, *cases]
    done = subprocess.run(
        [*map(str, program)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    for case in cases:
        run, epoch, images = case.split(":")
        expected = plain_gradients(make_model(run, int(epoch)), int(images), loss_group_of(run))
        assert_same(torch.load(folder / f"{case}.pt"), expected)


def test_tood_on_two_processes(tmp_path):
    """Also of a batch of one image, of which the second process has none."""
    on_processes(tmp_path, 2, [f"tood_af:{epoch}:{images}" for epoch in EPOCHS for images in (16, 1)])


def test_other_sums_over_images_on_two_processes(tmp_path):
    """Divisors from targets alone, and from predictions; of five images, and of one."""
    on_processes(tmp_path, 2, [f"{run}:4:{images}" for run in ("atss_ab", "atss_qfl") for images in (5, 1)])


@pytest.mark.parametrize(
    ("run", "epoch", "loss_group", "passes"),
    [
        ("tood_af", 0, None, 4),  # divisors from targets alone
        ("tood_af", 4, None, 4),  # one divisor
        ("atss_af", 4, None, 4),
        ("atss_qfl", 4, None, 7),  # divisors from predictions, and the first part is not repeated
        ("paa", 4, None, 8),  # samples are weighed among the whole batch
        ("tood_af", 4, 2, 8),
    ],
)
def test_how_often_the_network_computes(run, epoch, loss_group, passes, monkeypatch):
    """Four images, one at a time."""
    model, calls = make_model(run, epoch), []
    extract_feat = model.extract_feat
    monkeypatch.setattr(model, "extract_feat", lambda x: calls.append(len(x)) or extract_feat(x))
    batch = batch_gradient(model, collated(make_batch(4)), 1, loss_group)
    assert calls == [1] * passes
    assert len(batch.metas) == len(batch.gt) == len(batch.outs[0][0]) == 4


def test_loss_groups_on_two_processes(tmp_path):
    """Of 5 and 9 images the processes have 2 and 3, 4 and 5: a group is on both, the last is short."""
    on_processes(tmp_path, 2, [f"{run}:4:{images}" for run in ("pisa", "fovea") for images in (5, 9)])


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_every_head_on_processes(tmp_path, processes):
    on_processes(tmp_path, processes, [f"{run}:{epoch}:16" for run in RUNS for epoch in EPOCHS])


def test_averaging_parts_is_another_gradient():
    """What is avoided: the test would not see it if the normalisers did not matter."""
    model, batch = make_model("tood_af", 4), make_batch(4)
    averaged = {}
    for image in batch:
        data = model.data_preprocessor(collated([image]), training=True)
        model.zero_grad()
        model.parse_losses(model(**data, mode="loss"))[0].backward()
        for name, grad in gradients(model).items():
            averaged[name] = None if grad is None else averaged.get(name, 0) + grad / len(batch)
    with pytest.raises(AssertionError):
        assert_same(averaged, plain_gradients(make_model("tood_af", 4), 4), relative=1e-3)


def test_batch_normalisation_is_refused():
    frozen, training = make_model("tood_af", 0), make_model("tood_af", 0, {"model.backbone.norm_eval": False})
    require_separable(frozen, 16, 2)
    require_separable(training, 16, 16)  # in one piece it is what the paper trains
    with pytest.raises(RuntimeError, match=r"backbone.bn1.*2 of 16 at a time.*norm_eval=true"):
        require_separable(training, 16, 2)


@pytest.mark.parametrize("run", ["paa", "freeanchor"])
def test_a_loss_that_cannot_be_evaluated_is_a_divergence(run):
    """Their losses do not come out as NaN; scikit-learn and torch refuse such predictions."""
    model = make_model(run, 4)
    model.bbox_head.cls_convs[0].conv.weight.data.fill_(float("nan"))
    with pytest.raises(Diverged, match="predictions are not finite"):
        batch_gradient(model, collated(make_batch(2)), 2)
