"""For what the host waits on a GPU, by tensors that say that they are on one."""

import pytest
import torch
from helpers.detectors import MODELS, configuration
from helpers.spoofed_gpu import DEVICE, Wait, counting, gpu
from helpers.waits import waits_of
from torch import Tensor
from torchvision.ops import nms

from tood.models.tood import tood_head

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

# Most waits of a step of training of 4 images, preprocessor and optimiser included, by run: one of each head
# and way to assign. PAA looks for candidates, and fits mixtures to their losses on the host.
LIMITS = {
    "tood_af": 0,
    "tood_ab": 0,
    "tood_af with DCN": 0,
    "atss_af": 0,
    "atss_ab": 0,
    "atss_af_thead": 0,
    "atss_ab_thead": 0,
    "atss_qfl": 0,
    "tal": 0,
    "tal_tap_18e": 0,
    "gfl_r101": 0,
    "gflv2_x101_32x4d_dcn": 0,
    "vfnet_x101_64x4d_dcn": 0,
    "paa": 2,
    "paa_iou": 2,
    "paa_r101": 2,
    "fcos": 0,
    "fcos_imprv": 0,
    "fcos_imprv_thead": 0,
    "fovea": 0,
    "fovea_thead": 0,
    "retinanet": 0,
    "pisa": 1,
    "noisy_anchor": 2,
    "freeanchor": 0,
    "mal": 0,
    "sapd_r101": 2,
    "ota_x101_64x4d_dcn": 0,
    "iqdet_x101_64x4d_dcn": 4,
}
# In two replicas, whose losses are evaluated one after another, or side by side
REPLICAS = {"tood_af": 0, "atss_ab": 0, "gfl_r101": 0, "vfnet_x101_64x4d_dcn": 0, "paa_iou": 4}
REPLICAS |= {"fcos": 0, "pisa": 2}
# Quick: the paper's heads, one of each family, and those that wait
QUICK = ("tood_af", "tood_ab", "atss_ab", "gfl_r101", "paa_iou", "fcos", "pisa", "iqdet_x101_64x4d_dcn")
QUICK_REPLICAS = ("tood_af", "paa_iou")


def one_by_one(names, quick) -> list:
    return [pytest.param(name, marks=[] if name in quick else pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", one_by_one(LIMITS, QUICK))
def test_a_step_waits_no_more_than_this(name):
    found = waits_of(name).step
    assert found.total() <= LIMITS[name], str(found)


@pytest.mark.parametrize("name", one_by_one(REPLICAS, QUICK_REPLICAS))
def test_a_step_with_two_replicas_waits_no_more_than_this(name):
    found = waits_of(name, replica=2).step
    assert found.total() <= REPLICAS[name], str(found)


def test_each_head_has_its_limit():
    def heads(names) -> set[str]:
        return {configuration(name).model.bbox_head.type for name in names}

    assert heads(MODELS) == heads(LIMITS)


@pytest.mark.parametrize("name", ["tood_ab", "atss_ab", "gfl_r101"])
def test_dense_predictions_wait_for_nothing_and_detections_for_little(name):
    found = waits_of(name)
    assert found.dense.total() == 0, str(found.dense)
    assert found.detect.total() <= 8, str(found.detect)
    assert found.positives.total() <= 5, str(found.positives)


def indexed(x: Tensor) -> Tensor:
    x[x > 0] = x.sum()
    return x


SEEDED = {
    "item": (lambda x: x.sum().item(), "value read"),
    "float": (lambda x: float(x.sum()), "value read"),
    "if": (lambda x: 1 if x.sum() > 0 else 0, "value read"),
    "range": (lambda x: list(range(x.argmax())), "value read"),
    "slice": (lambda x: x[: x.argmax()], "value read"),
    "number as index": (lambda x: x[x.argmax()], "value read"),
    "tolist": (lambda x: x.tolist(), "value read"),
    "full": (lambda x: x.new_full((2,), x.sum()), "value read"),
    "equal": (lambda x: torch.equal(x, x + 1), "value read"),
    "allclose": (lambda x: torch.allclose(x, x + 1), "value read"),
    "nonzero": (lambda x: x.nonzero(), "nonzero"),
    "where": (lambda x: torch.where(x > 0), "nonzero"),
    "boolean index": (lambda x: x[x > 0], "boolean index"),
    "bytes as index": (lambda x: x[(x > 0).byte()], "boolean index"),
    "boolean index of what is set": (indexed, "boolean index"),
    "masked_select": (lambda x: x.masked_select(x > 0), "boolean index"),
    "unique": (lambda x: x.unique(), "unique"),
    "unique rows": (lambda x: x[:, None].unique(dim=0), "unique"),
    "bincount": (lambda x: x.long().bincount(), "bincount"),
    "repeat_interleave": (
        lambda x: x.repeat_interleave(x.long()),
        "repeat_interleave without output_size",
    ),
    "nms": (lambda x: nms(x.repeat(3, 1), x[:3], 0.5), "nms"),
    "index on the host": (lambda x: x[torch.arange(2)], "index on the host"),
    "list as index": (lambda x: x[[0, 1]], "copy from the host"),
    "tensor of a list": (lambda x: x.new_tensor([1.0]), "copy from the host"),
    "to the device": (lambda x: torch.ones(2).to(x), "copy from the host"),
    "copy_": (lambda x: x.copy_(torch.ones(4)), "copy from the host"),
    "without pinned memory": (lambda x: torch.ones(2).to(x.device, non_blocking=True), "copy from the host"),
    "pinned": (lambda x: torch.ones(2).pin_memory().to(x.device), "copy from the host"),
    "cpu": (lambda x: x.cpu(), "copy to the host"),
}


@pytest.mark.parametrize("seed", SEEDED)
def test_a_wait_is_counted(seed):
    code, kind = SEEDED[seed]
    with gpu():
        x = torch.tensor([1.0, 2, 3, 4]).to(DEVICE)
        with counting() as waits:
            code(x)
    assert [wait.kind for wait in waits.elements()] == [kind], str(waits)
    assert all(wait.line.startswith("tests/models/test_waits.py:") for wait in waits)


FREE = {
    "a number where a mask is": lambda x: x.__setitem__(x > 0, 0.0),
    "masked_fill": lambda x: x.masked_fill(x > 0, 0),
    "where": lambda x: torch.where(x > 0, x, 0),
    "topk": lambda x: x[x.topk(2).indices],
    "a scalar of the host": lambda x: x * torch.tensor(2.0),
    "made there": lambda x: torch.zeros(3, device=x.device) + torch.arange(3, device=x.device),
    "pinned": lambda x: torch.ones(2).pin_memory().to(x.device, non_blocking=True),
    "a view of what is pinned": lambda x: torch.ones(2).pin_memory()[:1].to(x.device, non_blocking=True),
    "cpu, without waiting": lambda x: x.to("cpu", non_blocking=True),
    "repeat_interleave": lambda x: x.repeat_interleave(torch.ones_like(x).long(), output_size=4),
    "nothing to copy": lambda x: torch.ones(0).to(x),
}


@pytest.mark.parametrize("code", FREE.values(), ids=FREE)
def test_what_does_not_wait_is_not_counted(code):
    with gpu():
        x = torch.tensor([1.0, 2, 3, 4]).to(DEVICE)
        with counting() as waits:
            code(x)
    assert not waits, str(waits)


def test_a_wait_on_the_way_back_is_counted():
    class Waiting(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, gradient):
            return gradient * gradient.sum().item()

    with gpu():
        x = torch.ones(3).to(DEVICE).requires_grad_()
        y = Waiting.apply(x).sum()
        with counting() as waits:
            y.backward()
    assert x.grad.values.tolist() == [3] * 3
    assert [wait.kind for wait in waits.elements()] == ["value read"]


def test_a_shape_is_changed_in_place():
    with gpu():
        x = torch.arange(6.0).view(2, 3).to(DEVICE)
        x.t_()
        assert x.shape == (3, 2)
        assert (x + 1).values.tolist() == [[1, 4], [2, 5], [3, 6]]


def test_devices_do_not_mix():
    with gpu(), pytest.raises(RuntimeError, match="one device"):
        torch.ones(3).to(DEVICE) + torch.ones(3)


def test_a_wait_in_a_head_is_counted_with_its_line(monkeypatch):
    before = waits_of("tood_af").step
    centres = tood_head.anchor_centres
    monkeypatch.setattr(tood_head, "anchor_centres", lambda a: centres(a) * float(a.sum() > 0))
    after = waits_of("tood_af").step
    (more,) = set(after) - set(before)
    assert more == Wait("value read", more.line)
    assert "test_waits.py" in more.line
