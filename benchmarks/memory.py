"""What a step of training takes of a GPU's memory, counted by tensors that have a size and no content.

No GPU is needed. What is counted is every tensor that lives at the same time: weights, gradients,
momentum and activations. A GPU needs more, as its libraries have workspaces and freed blocks do not fit
everywhere. A rehearsal measures it (docs/gpus.md).
"""

import argparse
import warnings
import weakref
from collections.abc import Sequence
from typing import Any
from unittest import mock

import torch
from mmdet.structures import DetDataSample
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.inputs import CLASSES, objects
from tests.helpers.fake_device import DRIVERLESS, Preprocessed, fake, move, moved
from tood.data.loading import LocalBatch
from tood.engine.config import build_model, place_anchors, resolve
from tood.engine.replicas import batch_gradient
from tood.study.plan import Plan

SIZE, OBJECTS, EPOCH = (800, 1344), 7, 4
# A TOOD of each backbone. Heads whose targets ask for values cannot be counted so.
RUNS = ("tood_af", "tood_r101", "tood_r101_dcn", "tood_x101_64x4d", "tood_x101_64x4d_dcn")
MICRO_BATCHES = (1, 2, 4, 8, 16)


class Living(TorchDispatchMode):
    """Bytes of the tensors that are alive, and the most there ever were."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.peak = 0
        self._seen: set[int] = set()

    def add(self, tensor: Tensor) -> None:
        """Count the storage of a tensor until it is freed."""
        storage = tensor.untyped_storage()
        if (key := storage._cdata) in self._seen or tensor.device.type == "cpu":
            return
        self._seen.add(key)
        size = storage.nbytes()
        self.bytes += size
        self.peak = max(self.peak, self.bytes)
        weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.bytes -= size

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.add(leaf)
        return result


def gibibytes(run: str, micro_batch: int) -> float:
    """The most memory that the tensors of a step in float32 take, on one GPU with a batch of 16."""
    categories = [{"id": number + 1, "name": str(number)} for number in range(CLASSES)]
    config = resolve(Plan({"scale": "paper"}).settings(run), categories, None)
    images, number = config.train.replica, config.train.batch_size // config.train.replica
    generator = torch.Generator().manual_seed(0)
    on_gpu = property(lambda tensor: tensor.device.type != "cpu")  # which some layers ask for
    with fake(DRIVERLESS) as to, mock.patch.object(torch.Tensor, "is_cuda", on_gpu, create=True):
        model = build_model(config).train()
        move(model, to)
        place_anchors(model.bbox_head, torch.device(DRIVERLESS))
        samples = []
        for _ in range(images):
            sample = DetDataSample(
                metainfo=dict(
                    img_shape=SIZE,
                    ori_shape=SIZE,
                    pad_shape=SIZE,
                    batch_input_shape=SIZE,
                    scale_factor=(1.0, 1.0),
                )
            )
            sample.gt_instances = objects(OBJECTS, SIZE, generator)
            sample.ignored_instances = objects(0, SIZE, generator)
            samples.append(sample)
        data = {"inputs": torch.empty(images, 3, *SIZE), "data_samples": samples}
        there = moved(data, to)
        del model.data_preprocessor
        model.data_preprocessor = Preprocessed(there)
        model.bbox_head.set_progress(EPOCH, EPOCH / 12)
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        with Living() as living:
            for tensor in (*model.parameters(), *model.buffers(), there["inputs"]):
                living.add(tensor)
            batch_gradient(model, LocalBatch([there] * number, number), micro_batch)
        return (living.peak + 4 * trained) / 2**30  # momentum is there from the second step on


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `python -m benchmarks.memory`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("--runs", nargs="*", default=RUNS)
    parser.add_argument("--micro-batches", nargs="*", type=int, default=MICRO_BATCHES)
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    print("GiB with micro_batch", *options.micro_batches)
    for run in options.runs:
        print(run, end="", flush=True)
        for number in options.micro_batches:
            print(f" {gibibytes(run, number):.1f}", end="", flush=True)
        print(flush=True)


if __name__ == "__main__":
    main()
