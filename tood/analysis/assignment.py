"""The positives of several schemes on one image, side by side."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from mmdet.datasets import CocoDataset
from mmengine.config import Config

from tood.data.loading import build_dataset
from tood.data.manifest import read_manifest
from tood.engine.config import build_model, resolve
from tood.engine.trainer import load_model
from tood.models.common.positives import statistics
from tood.study.declarations import ExperimentError
from tood.study.plan import Plan

# One a pyramid level, from the finest on
MARKERS = "os^Dv"
COLUMNS = 3


class ImagePositives(NamedTuple):
    """What one scheme makes of one image."""

    scheme: str
    trained: bool  # or with random weights, of which the positives do not depend
    image: np.ndarray  # [H, W, 3] uint8, RGB, as the network sees it
    gt_boxes: np.ndarray  # [G, 4] pixels of `image`
    points: np.ndarray  # [P, 2] centres of the positives
    levels: np.ndarray  # [P] their pyramid levels
    objects: np.ndarray  # [P] their objects
    weights: np.ndarray  # [P] relative to the largest of the object
    per_object: float  # number of positives, mean over objects
    iou: float  # of their predicted boxes, mean over objects that have any; nan for random weights


def assign(plan: Plan, run_id: str, image: str, seed: int) -> ImagePositives:
    """Let the scheme of a run assign one image of a study.

    Args:
        plan: the study.
        run_id: one of its runs.
        image: file name or id of an image of the validation or the training split.
        seed: of the trained model.

    Raises:
        ExperimentError: unknown image; data that was not checked; a model that the scheme needs and
            that was not trained.
    """
    work = Path("work") / plan.name
    if not (work / "manifest.json").is_file():
        raise ExperimentError(
            f"{work}/manifest.json: not there, so this study's data was not checked; "
            f"run `snakemake {work}/manifest.json --cores 1` with this --config first"
        )
    manifest = read_manifest(work / "manifest.json")
    config = resolve(plan.settings(run_id), manifest["categories"], None)
    torch.manual_seed(seed)
    model = build_model(config).eval()
    weights = work / "runs" / run_id / f"seed{seed}" / "model.pth"
    trained = weights.is_file()
    if trained:
        try:
            load_model(weights, model)
        except RuntimeError as error:
            raise ExperimentError(f"{error}; train the run again") from error
    elif model.bbox_head.assigns_by_prediction:
        raise ExperimentError(
            f"{weights}: not there; {run_id} assigns by what its model predicts, so train it first: "
            f"run the workflow with runs={run_id} and this --config"
        )
    head = model.bbox_head
    head.set_progress(config.schedule.epochs - 1, 1.0)
    dataset, index = find_image(image, plan, Path(manifest["root"]), config)
    item = dataset[index]
    data = model.data_preprocessor({"inputs": [item["inputs"]], "data_samples": [item["data_samples"]]})
    (sample,) = data["data_samples"]
    gt, meta = sample.gt_instances, sample.metainfo
    with torch.no_grad():
        outs = head(model.extract_feat(data["inputs"]))
    (positives,) = head.positives_by_feat(*outs, batch_gt_instances=[gt], batch_img_metas=[meta])
    (levels,) = head.dense_by_feat(*outs, batch_img_metas=[meta], clip=False)
    measured = statistics(positives, levels, gt.bboxes)
    points = torch.cat([level.points for level in levels])
    level_of = torch.cat([torch.full((len(level.points),), i) for i, level in enumerate(levels)])
    largest = torch.zeros(len(gt)).scatter_reduce(0, positives.objects, positives.weights, "amax")
    return ImagePositives(
        scheme=run_id,
        trained=trained,
        image=item["inputs"].flip(0).permute(1, 2, 0).numpy(),  # BGR [3, H, W] to RGB [H, W, 3]
        gt_boxes=gt.bboxes.numpy(),
        points=points[positives.anchors].numpy(),
        levels=level_of[positives.anchors].numpy(),
        objects=positives.objects.numpy(),
        weights=(positives.weights / largest[positives.objects]).numpy(),
        per_object=measured.number.mean().item(),
        iou=measured.iou.nanmean().item() if trained else float("nan"),
    )


def find_image(image: str, plan: Plan, root: Path, config: Config) -> tuple[CocoDataset, int]:
    """The dataset that holds the image, in the input size of the run, and the image's index in it."""
    for split in reversed(plan.splits.values()):
        dataset = build_dataset(
            root, split.annotations, split.images, config.classes, config.input.size, None
        )
        for index in range(len(dataset)):
            info = dataset.get_data_info(index)
            if image in (str(info["img_id"]), info["img_path"], Path(info["img_path"]).name):
                if not any(not instance["ignore_flag"] for instance in info["instances"]):
                    raise ExperimentError(f"--image {image}: has no object; choose one that has")
                return dataset, index
    files = " or ".join(split.annotations for split in plan.splits.values())
    raise ExperimentError(
        f"--image {image}: neither the file name nor the id of an image in {files} of {root}"
    )


def draw(assignments: Sequence[ImagePositives]) -> Figure:
    """A panel a scheme: positives as dots in the colour of their object, a marker a level."""
    columns = min(COLUMNS, len(assignments))
    rows = -(-len(assignments) // columns)
    height, width = assignments[0].image.shape[:2]
    figure = Figure(figsize=(4 * columns, 4 * rows * height / width + 0.5 * rows + 0.4), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    colours = mpl.color_sequences["tab10"]
    for axes, found in zip(panels, assignments, strict=False):
        axes.imshow(found.image, alpha=0.6)
        for g, (x1, y1, x2, y2) in enumerate(found.gt_boxes):
            colour = colours[g % len(colours)]
            axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, lw=1.5, color=colour))
        for level in np.unique(found.levels):
            here = found.levels == level
            axes.scatter(
                *found.points[here].T,
                c=[colours[g % len(colours)] for g in found.objects[here]],
                alpha=0.25 + 0.75 * found.weights[here],
                marker=MARKERS[level % len(MARKERS)],
                s=14 + 10 * level,
                edgecolors="black",
                linewidths=0.3,
            )
        quality = f"IoU {found.iou:.2f}" if found.trained else "untrained"
        axes.set_title(f"{found.scheme}: {found.per_object:.1f} an object, {quality}", fontsize="small")
        axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
    for axes in panels[len(assignments) :]:
        axes.remove()
    present = sorted({int(level) for found in assignments for level in found.levels})
    handles = [
        Line2D([], [], ls="", c="grey", marker=MARKERS[level % len(MARKERS)], label=f"level {level + 1}")
        for level in present
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=max(len(handles), 1), frameon=False)
    return figure
