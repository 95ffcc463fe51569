"""A training that diverges: on a GPU no operation of a loss may stop because of a value."""

import pytest
import torch
from helpers.detectors import MODELS, batch, build
from helpers.runs import head_of, one_of_each_part
from torch.utils._python_dispatch import TorchDispatchMode

from tood.data.loading import LocalBatch
from tood.engine.loss_watch import LossWatch
from tood.engine.replicas import batch_gradient
from tood.runtime.failures import Diverged
from tood.study.declarations import load_runs

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
EPOCHS = (0, 8)
# Operations whose kernels for CUDA assert something on values
ASSERTING = (
    "binary_cross_entropy",
    "cross_entropy_loss",
    "nll_loss",
    "multi_margin_loss",
    "multinomial",
    "bernoulli",
    "_assert",
    "embedding",
)
# One of each head
HEADS = list({head_of(load_runs()[run].config): name for name, (run, _) in reversed(MODELS.items())}.values())
# Their mixtures are scikit-learn's, which refuses such numbers
ON_THE_HOST, REFUSED = ("paa", "paa_iou", "paa_r101"), "predictions are not finite .*NaN"


class Operations(TorchDispatchMode):
    """Names of the operations that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.add(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))

    def asserting(self) -> set[str]:
        """Those of `ASSERTING`, with their derivatives; the entropy of logits is made of others."""
        return {
            name
            for name in self.names
            if name.startswith(ASSERTING) and not name.startswith("binary_cross_entropy_with_logits")
        }


@pytest.mark.parametrize("name", [*one_of_each_part(), "tood_af with DCN"])
def test_no_operation_asserts_on_values(name):
    model = build(name).train()
    for epoch in EPOCHS:
        model.bbox_head.set_progress(epoch, epoch / 12)
        with Operations() as operations:
            batch_gradient(model, LocalBatch([batch()], 1))
        assert "convolution" in operations.names
        assert not operations.asserting()


@pytest.mark.parametrize(
    "loss",
    [
        lambda x: torch.nn.functional.binary_cross_entropy(x.sigmoid(), torch.ones_like(x)),
        lambda x: torch.nn.functional.cross_entropy(x, torch.tensor([1, 0])),
        lambda x: x.softmax(1).multinomial(1),
    ],
)
def test_an_operation_that_asserts_is_found(loss):
    with Operations() as operations:
        loss(torch.zeros(2, 3))
    assert operations.asserting()


@pytest.mark.parametrize("spoilt", [(0, 1, 2, 3), (0,), (1,)], ids=["all", "scores", "boxes"])
@pytest.mark.parametrize("name", HEADS)
def test_predictions_that_are_no_numbers_are_a_divergence(name, spoilt, monkeypatch):
    """And no other failure: no index is made of them, which would be out of range."""
    model = build(name).train()
    head = model.bbox_head
    forward = head.forward

    def spoil(feats):
        return tuple(
            [level * torch.nan if kind in spoilt else level for level in maps]
            for kind, maps in enumerate(forward(feats))
        )

    monkeypatch.setattr(head, "forward", spoil)
    for epoch in EPOCHS:
        head.set_progress(epoch, epoch / 12)
        watch = LossWatch(at_once=True, describe=str)
        with pytest.raises(Diverged, match=REFUSED if name in ON_THE_HOST else "the loss is nan"):
            watch.add(batch_gradient(model, LocalBatch([batch()], 1))["loss"], 0)
