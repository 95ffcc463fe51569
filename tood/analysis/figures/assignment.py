"""The positives of several schemes on one image, side by side."""

import functools
import os
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from mmdet.datasets import CocoDataset
from mmengine.config import Config

from tood.analysis.figures.files import shown_name
from tood.analysis.figures.style import BLACK, BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILION, YELLOW
from tood.data.annotations import read_image_list
from tood.data.images import ImageError
from tood.data.loading import build_dataset
from tood.data.validation import Split
from tood.engine.config import build_model, resolve
from tood.engine.weights import load_model
from tood.ledger.status import checked_data
from tood.models.common.positives import statistics
from tood.study.declarations import ExperimentError
from tood.study.paths import StudyPaths
from tood.study.plan import Plan

# One per pyramid level, from the finest on
MARKERS = "os^Dv"
COLUMNS = 3
_COLOURS = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, BLACK, YELLOW)  # of objects, in turn
_LISTED = 10  # images of the same name


class ImagePositives(NamedTuple):
    """The assignment of one image by one scheme."""

    scheme: str  # id of its run
    title: str  # of its run
    trained: bool  # or with random weights, on which the positives do not depend
    image: np.ndarray  # [H, W, 3] uint8, RGB, as the network sees it
    gt_boxes: np.ndarray  # [G, 4] pixels of `image`
    names: Sequence[str]  # [G] classes of the objects
    strides: Sequence[int]  # of all pyramid levels, from the finest on
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
        image: as for `find_image`.
        seed: of the trained model.

    Raises:
        ExperimentError: the image is unknown or cannot be read; the data was not checked; or the scheme needs
            a trained model and there is none.
    """
    paths = StudyPaths(plan.name)
    manifest = checked_data(plan)
    config = resolve(plan.settings(run_id), manifest["categories"], None)
    torch.manual_seed(seed)
    model = build_model(config).eval()
    weights = paths.run(run_id, seed).model
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
    try:
        item = dataset[index]
    except ImageError as error:
        raise ExperimentError(f"--image {error}") from error
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
        title=plan.all_runs[run_id].title,
        trained=trained,
        image=item["inputs"].flip(0).permute(1, 2, 0).numpy(),  # BGR [3, H, W] to RGB [H, W, 3]
        gt_boxes=gt.bboxes.numpy(),
        names=[config.classes[label] for label in gt.labels.tolist()],
        strides=[level.stride for level in levels],
        points=points[positives.anchors].numpy(),
        levels=level_of[positives.anchors].numpy(),
        objects=positives.objects.numpy(),
        weights=(positives.weights / largest[positives.objects]).numpy(),
        per_object=measured.number.mean().item(),
        iou=measured.iou.nanmean().item() if trained else float("nan"),
    )


def find_image(image: str, plan: Plan, root: Path, config: Config) -> tuple[CocoDataset, int]:
    """The dataset that holds an image, in the input size of the run, and the image's index in it.

    Args:
        image: its `file_name` or `id` in an annotation file, or the path of the file, from here or from the
            root of the data, or its base name; the first match counts. If both splits match by `file_name`,
            `id` or path, the validation image is used, and stderr names the other image.
        plan: the study.
        root: folder of the dataset.
        config: of the run.

    Raises:
        ExperimentError: no image matches, or several have this base name; or the image has no object.
    """
    splits = sorted(plan.splits.items(), reverse=True)  # val before train
    entries = [entry for _, split in splits for entry in _entries(root, split)]
    meant = _meant(image, root, entries)
    if not meant:
        files = " or ".join(split.annotations for split in plan.splits.values())
        raise ExperimentError(
            f"--image {image}: neither file_name, id, path nor base name of an image in {files} of {root}"
        )
    first, *others = meant
    for other in others:
        _say(f"--image {image}: {first.path} is used; for {other.path} give its path")
    dataset = build_dataset(root, *first.split, config.classes, config.input.size, None)
    infos = (dataset.get_data_info(index) for index in range(len(dataset)))
    index, info = next((i, info) for i, info in enumerate(infos) if str(info["img_id"]) == first.id)
    if all(instance["ignore_flag"] for instance in info["instances"]):
        raise ExperimentError(f"--image {image}: {first.path} has no object; choose an image that has")
    return dataset, index


@dataclass(frozen=True)
class _Entry:
    """An image that an annotation file lists."""

    split: Split
    id: str
    file_name: str
    path: str


@functools.cache  # of a large dataset they take long to read, and each scheme needs them
def _entries(root: Path, split: Split) -> list[_Entry]:
    images, _ = read_image_list(root / split.annotations, root / split.images)
    return [
        _Entry(split, str(number), image.name, os.path.join(root, split.images, image.name))
        for number, image in images.items()
    ]


def _meant(image: str, root: Path, entries: list[_Entry]) -> list[_Entry]:
    """The images that match a user's word, at most one file of each split, the best match first.

    Raises:
        ExperimentError: several files have this base name.
    """
    paths = {os.path.abspath(image), os.path.abspath(root / image)}
    for means in (
        lambda entry: entry.file_name == image,
        lambda entry: entry.id == image,
        lambda entry: os.path.abspath(entry.path) in paths,
    ):
        if matches := list(filter(means, entries)):
            return _of_other_files(matches)
    matches = _of_other_files([entry for entry in entries if os.path.basename(entry.path) == image])
    if len(matches) > 1:
        listed = ", ".join(entry.path for entry in matches[:_LISTED])
        more = f" and {len(matches) - _LISTED} more" if len(matches) > _LISTED else ""
        raise ExperimentError(f"--image {image}: {len(matches)} images have this name: {listed}{more}")
    return matches


def _of_other_files(entries: list[_Entry]) -> list[_Entry]:
    """The entries, without entries whose file an earlier entry has."""
    of_file: dict[str, _Entry] = {}
    for entry in entries:
        of_file.setdefault(os.path.abspath(entry.path), entry)
    return list(of_file.values())


@functools.cache  # once, even if several schemes search the image
def _say(message: str) -> None:
    print(f"tood: {message}", file=sys.stderr)


def draw(assignments: Sequence[ImagePositives]) -> Figure:
    """A panel per scheme: positives as dots in the colour of their object, a marker per level."""
    columns = min(COLUMNS, len(assignments))
    rows = -(-len(assignments) // columns)
    height, width = assignments[0].image.shape[:2]
    panel = min(max(4 * height / width, 1.5), 8)  # inches
    figure = Figure(figsize=(max(4 * columns, 5), (panel + 0.5) * rows + 0.55), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes, assignment in zip(panels, assignments, strict=False):
        _draw(axes, assignment)
        quality = f"IoU of their boxes {assignment.iou:.2f}" if assignment.trained else "untrained"
        title = "\n".join(textwrap.wrap(shown_name(assignment.title), 48))
        axes.set_title(f"{title}\n{assignment.per_object:.1f} positives per object, {quality}", fontsize=9)
        axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
    for axes in panels[len(assignments) :]:
        axes.remove()
    # Each scheme may have levels of its own, such as one more.
    present = {
        int(level): assignment.strides[level]
        for assignment in assignments
        for level in np.unique(assignment.levels)
    }
    handles = [
        Line2D(
            [], [], ls="", c="grey", marker=MARKERS[level % len(MARKERS)], label=f"stride {present[level]}"
        )
        for level in sorted(present)
    ]
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=max(len(handles), 1),
        frameon=False,
        title="positives, in the colour of their object; the fainter, the lower their weight",
        title_fontsize=9,
    )
    return figure


def _draw(axes: Axes, assignment: ImagePositives) -> None:
    """The image, the boxes of its objects with their classes, and the positives."""
    height, width = assignment.image.shape[:2]
    axes.imshow(assignment.image, alpha=0.6, extent=(0, width, height, 0))  # boxes count from pixels' edges
    for g, ((x1, y1, x2, y2), name) in enumerate(zip(assignment.gt_boxes, assignment.names, strict=True)):
        colour = _COLOURS[g % len(_COLOURS)]
        axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, lw=1.5, color=colour))
        text = axes.text(
            *(max(x1, 0), max(y1, 0)),
            f" {shown_name(name)}",
            va="top",
            fontsize=8,
            color=colour,
            clip_on=True,
        )
        text.set_path_effects([withStroke(linewidth=2, foreground="white")])
    for level in np.unique(assignment.levels):
        here = assignment.levels == level
        x, y = assignment.points[here].T
        axes.scatter(
            x,
            y,
            c=[_COLOURS[g % len(_COLOURS)] for g in assignment.objects[here]],
            alpha=0.25 + 0.75 * assignment.weights[here],
            marker=MARKERS[level % len(MARKERS)],
            s=14 + 10 * level,
            edgecolors="black",
            linewidths=0.3,
        )
