"""A detector's gradient on a made batch, in float64: what the tests share, and what `torchrun` starts.

    torchrun --nproc-per-node N tests/helpers/gradients.py FOLDER RUN:EPOCH:IMAGES ...

writes FOLDER/RUN:EPOCH:IMAGES.pt from each process's share of the batch, if all processes agree.
"""

import sys
from pathlib import Path

import torch
from mmdet.structures import DetDataSample
from mmengine.dist import all_gather_object, get_rank
from mmengine.runner import set_random_seed
from mmengine.structures import InstanceData
from torch import Tensor, nn

from tood.engine.config import build_model, resolve
from tood.engine.gradient import batch_gradient
from tood.runtime.distributed import join, local_batch
from tood.study.plan import Plan

CATEGORIES = [{"id": number, "name": str(number)} for number in range(1, 5)]


def loss_group_of(run: str) -> int | None:
    """Number of images whose loss the run's recipe evaluates together."""
    return resolve(Plan({}).settings(run), CATEGORIES, None).train.loss_group


def make_model(run: str, epoch: int, options: dict | None = None):
    """The narrow detector of a run, its batch normalisation frozen, as the scale `paper` has it."""
    settings = Plan({}).settings(run)
    settings["run"]["options"] |= {"model.backbone.norm_eval": True} | (options or {})
    set_random_seed(0)
    model = build_model(resolve(settings, CATEGORIES, None))
    model.init_weights()
    model.bbox_head.set_progress(epoch, epoch / 12)
    _add_parameters(model.bbox_head)
    return model.double().train()


def _add_parameters(head) -> None:
    """One that only the loss uses, which must count once on any number of processes, and one unused."""
    head.temperature, head.unused = nn.Parameter(torch.ones(())), nn.Parameter(torch.ones(()))
    loss_by_feat = head.loss_by_feat

    def tempered(*args, **kwargs) -> dict:
        losses = loss_by_feat(*args, **kwargs)
        return {
            name: [part * head.temperature for part in loss]
            if isinstance(loss, list)
            else loss * head.temperature
            for name, loss in losses.items()
        }

    head.loss_by_feat = tempered


def make_batch(images: int) -> list[tuple[Tensor, DetDataSample]]:
    """Images of different sizes with 0 to 3 objects each, so that parts of the batch are unlike it."""
    generator = torch.Generator().manual_seed(1)
    batch = []
    for number in range(images):
        height, width = torch.randint(40, 65, (2,), generator=generator).tolist()
        pixels = torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)
        objects = (number + 1) % 4
        corner = torch.rand(objects, 2, generator=generator) * 20
        size = 12 + torch.rand(objects, 2, generator=generator) * 16
        sample = DetDataSample(
            metainfo={"img_id": number, "img_shape": (height, width), "ori_shape": (height, width)}
            | {"scale_factor": (1.0, 1.0)}
        )
        sample.gt_instances = InstanceData(
            bboxes=torch.cat([corner, corner + size], 1),
            labels=torch.randint(0, 4, (objects,), generator=generator),
        )
        sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0).long())
        batch.append((pixels, sample))
    return batch


def collated(batch) -> dict | None:
    """As the loader gives a batch; None for no images."""
    inputs, samples = zip(*batch, strict=True) if batch else ((), ())
    return {"inputs": list(inputs), "data_samples": list(samples)} if batch else None


def gradients(model) -> dict[str, Tensor | None]:
    return {name: p.grad for name, p in model.named_parameters()}


def plain_gradients(model, images: int, loss_group: int | None = None) -> dict[str, Tensor | None]:
    """The mean of mmdet's own losses of each group of the batch, each group computed in one piece."""
    model.zero_grad(set_to_none=True)
    data = model.data_preprocessor(collated(make_batch(images)), training=True)
    groups = range(0, images, loss_group or images)
    for start in groups:
        group = slice(start, start + (loss_group or images))
        loss = model(data["inputs"][group], data["data_samples"][group], mode="loss")
        (model.parse_losses(loss)[0] / len(groups)).backward()
    return gradients(model)


def assert_same(found: dict, expected: dict, relative: float = 1e-9) -> None:
    """Every parameter's gradient agrees, relative to the largest entry of it."""
    assert found.keys() == expected.keys()
    assert any(grad is not None and grad.any() for grad in expected.values())
    for name, grad in expected.items():
        assert (found[name] is None) == (grad is None), name
        if grad is not None:
            difference = (found[name] - grad).abs().max()
            assert difference <= relative * grad.abs().max(), (name, difference, grad.abs().max())


def main() -> None:
    folder, *cases = sys.argv[1:]
    torch.set_num_threads(1)
    join(torch.device("cpu"))
    for case in cases:
        run, epoch, images = case.split(":")
        model = make_model(run, int(epoch))
        share = collated(local_batch(make_batch(int(images))))
        batch_gradient(model, share, images_at_once=3, loss_group=loss_group_of(run))
        found = gradients(model)
        for other in all_gather_object(found):
            assert_same(found, other, relative=0)
        if get_rank() == 0:
            torch.save(found, Path(folder) / f"{case}.pt")


if __name__ == "__main__":
    main()
