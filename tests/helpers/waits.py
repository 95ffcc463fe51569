"""For what the host waits in training and prediction of each head: `python -m helpers.waits RUN..`.

Run it in `tests`; without runs it takes one of each head. `--lines` adds the lines that wait.
"""

import argparse
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from helpers.detectors import MODELS, build, configuration
from helpers.spoofed_gpu import DEVICE, Waits, counting, gpu
from tood.data.loading import LocalBatch, collate_replicas
from tood.engine.config import place_anchors
from tood.engine.loss_watch import LossWatch
from tood.engine.optimizer import build_optimizer
from tood.engine.replicas import batch_gradient
from tood.evaluation.detection import coco_results
from tood.models.common import positives
from tood.runtime.quiet import silence

EPOCHS = (0, 4)  # warm-up, and after it
OBJECTS = (14, 7, 7, 7)  # of the images of a batch
SIZES = ((64, 64), (64, 64), (50, 60), (64, 48))  # (height, width)


class HeadWaits(NamedTuple):
    """Waits of one head."""

    step: Waits  # of training: preprocessor, losses, gradient and optimiser; the worse of `EPOCHS`
    dense: Waits  # of the dense predictions for one image, from its input on
    detect: Waits  # of all detections on one image, written as COCO wants them
    positives: Waits  # of the statistics of positives of a batch, for an entry of the log


def samples() -> list[dict]:
    """Images with objects, as a dataset gives them."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for number, (objects, size) in enumerate(zip(OBJECTS, SIZES, strict=True)):
        corners = torch.rand(objects, 2, generator=generator) * 30  # (x1, y1)
        sides = 6 + torch.rand(objects, 2, generator=generator) * 15
        boxes, labels = (
            torch.cat([corners, corners + sides], 1),
            torch.randint(5, (objects,), generator=generator),
        )
        sample = DetDataSample(
            metainfo=dict(img_id=number, scale_factor=(1.0, 1.0), img_shape=size, ori_shape=size)
        )
        sample.gt_instances = InstanceData(bboxes=boxes, labels=labels)
        sample.ignored_instances = InstanceData(bboxes=boxes[:0], labels=labels[:0])
        image = torch.randint(256, (3, *size), generator=generator, dtype=torch.uint8)
        found.append(dict(inputs=image, data_samples=sample))
    return found


def waits_of(name: str, replica: int = 4) -> HeadWaits:
    """Waits of one of `MODELS`, with `replica` images in a replica."""
    model = build(name)
    config = configuration(name)
    with gpu():
        model.to(DEVICE).train()
        head = model.bbox_head
        place_anchors(head, DEVICE)
        optimizer = build_optimizer(model, config.train)
        watch = LossWatch(at_once=False, describe=str)
        steps, seen = [], []
        for iteration, epoch in enumerate(EPOCHS):
            head.set_progress(epoch, epoch / 12)
            batch = LocalBatch(collate_replicas(replica, samples()), len(SIZES) // replica)
            with counting() as step:
                losses = batch_gradient(model, batch, None, observe=None)
                watch.add(losses["loss"], iteration)
                if config.train.grad_clip:
                    torch.nn.utils.clip_grad_norm_(model.parameters(), config.train.grad_clip)
                optimizer.step()
            steps.append(step)

        def observe(outs, gt, metas) -> None:
            with counting() as waits:
                positives.means(positives.of_images(head, outs, gt, metas))
            seen.append(waits)

        batch_gradient(model, LocalBatch(collate_replicas(4, samples()), 1), observe=observe)
        model.eval()
        model.bbox_head.test_cfg.update(score_thr=0.0)
        (batch,) = collate_replicas(1, samples()[:1])
        with torch.no_grad(), counting() as dense:
            data = model.data_preprocessor(batch)
            (sample,) = data["data_samples"]
            outs = model.bbox_head(model.extract_feat(data["inputs"]))
            model.bbox_head.dense_by_feat(*outs, batch_img_metas=[sample.metainfo])
        with torch.no_grad(), counting() as detect:
            (found,) = model.bbox_head.predict_by_feat(*outs, batch_img_metas=[sample.metainfo], rescale=True)
            coco_results(0, found, list(range(1, 6)))
    return HeadWaits(max(steps, key=Waits.total), dense, detect, seen[0])


def rows(names: Sequence[str], lines: bool) -> Iterator[str]:
    """A table in Markdown."""
    yield "| run | head | step, one replica of 4 | step, two of 2 | detections | statistics |"
    yield "|---|---|--:|--:|--:|--:|"
    for name in names:
        kind = type(build(name).bbox_head).__name__
        one, two = waits_of(name, 4), waits_of(name, 2)
        numbers = [waits.total() for waits in (one.step, two.step, one.detect, one.positives)]
        yield f"| {name} | {kind} | {' | '.join(map(str, numbers))} |"
        if lines:
            yield f"\nstep\n{one.step}\ndetections\n{one.detect}\nstatistics\n{one.positives}\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="*", metavar="RUN", help="of the experiments")
    parser.add_argument("--lines", action="store_true", help="also the lines that wait")
    options = parser.parse_args()
    silence()
    for row in rows(options.runs or list(MODELS), options.lines):
        print(row, flush=True)
