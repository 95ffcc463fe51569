"""Figures 1 and 4 for an image and an object of the user's choice, under any detectors."""

import textwrap
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from tood.analysis.figures.assignment import find_image
from tood.analysis.figures.files import shown_name
from tood.analysis.figures.map_figures import FigureRow
from tood.analysis.figures.maps import instance_maps
from tood.data.images import ImageError, read_image
from tood.engine.config import resolve
from tood.evaluation.detector import Detector
from tood.ledger.status import checked_data
from tood.runtime.text import did_you_mean, one_line
from tood.study.declarations import ExperimentError, load_runs
from tood.study.plan import Plan


class Scene(NamedTuple):
    """An image with objects, one of which is shown."""

    path: Path
    boxes: Tensor  # [G, 4] (x1, y1, x2, y2) in pixels of the file
    names: list[str]  # [G] classes
    chosen: int  # index of the object


def scene(
    image: str,
    box: Sequence[float] | None,
    label: str | None,
    chosen: int | None,
    plan: Plan | None,
    detectors: Sequence[Detector],
) -> Scene:
    """The image and the object that the user names.

    Args:
        image: any file, if `box` and `label` name the object; otherwise an image of the study.
        box: as for `of_image`.
        label: its class.
        chosen: as for `of_study`.
        plan: the study of the runs; None without runs.
        detectors: that are shown.

    Raises:
        ExperimentError: as `of_image` and `of_study`, or the object is not clear.
    """
    if (box is None) != (label is None):
        raise ExperimentError("--box and --label together name an object; give both")
    if box is not None and label is not None:
        if chosen is not None:
            raise ExperimentError("--object is for an image of a study; leave it out with --box")
        return of_image(Path(image), box, label, detectors[0].classes)
    if plan is None:
        raise ExperimentError(
            "without a --run there is no study whose objects are known; give --box and --label"
        )
    return of_study(plan, detectors[0].name, image, chosen)


def of_study(plan: Plan, run: str, image: str, chosen: int | None) -> Scene:
    """An image of a study's data.

    Args:
        plan: the study; its data was checked.
        run: one of its runs.
        image: as for `find_image`.
        chosen: number of the object, from 0; None means the largest.

    Raises:
        ExperimentError: there is no such image or object, or the data were not checked here.
    """
    manifest = checked_data(plan)
    config = resolve(plan.settings(run), manifest["categories"], None)
    dataset, index = find_image(image, plan, Path(manifest["root"]), config)
    info = dataset.get_data_info(index)
    objects = [instance for instance in info["instances"] if not instance["ignore_flag"]]
    boxes = torch.tensor([instance["bbox"] for instance in objects])
    names = [config.classes[instance["bbox_label"]] for instance in objects]
    if chosen is None:
        chosen = int((boxes[:, 2:] - boxes[:, :2]).prod(1).argmax())
    if not 0 <= chosen < len(objects):
        listed = "; ".join(
            f"{number} {name} at {', '.join(f'{side:.0f}' for side in box)}"
            for number, (name, box) in enumerate(zip(names, boxes.tolist(), strict=True))
        )
        raise ExperimentError(f"--object {chosen}: {image} has {len(objects)} objects: {listed}")
    return Scene(Path(info["img_path"]), boxes, names, chosen)


def of_image(path: Path, box: Sequence[float], name: str, classes: Sequence[str]) -> Scene:
    """Any image, with one object that the user names.

    Args:
        path: of the file.
        box: (x1, y1, x2, y2) in pixels of the file.
        name: class.
        classes: that the detectors know.

    Raises:
        ExperimentError: the file cannot be read, the box is not on it, or no detector knows the class.
    """
    try:
        height, width = read_image(path).shape[:2]
    except ImageError as error:
        raise ExperimentError(f"--image {error}") from error
    x1, y1, x2, y2 = box
    if not (0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height):
        raise ExperimentError(
            f"--box {','.join(f'{side:g}' for side in box)}: must be x1,y1,x2,y2 with x1 < x2 <= {width} and "
            f"y1 < y2 <= {height}, pixels of {path}"
        )
    if name not in classes:
        known = did_you_mean(name, classes) or f"they are {', '.join(classes)}"
        raise ExperimentError(f"--label {name!r}: no class of the model; {known}")
    return Scene(path, torch.tensor([list(box)], dtype=torch.float32), [name], 0)


def row_of(detector: Detector, shown: Scene) -> FigureRow:
    """The row of the object under one detector, for the figures.

    Raises:
        ExperimentError: it does not know the class, cannot process the image, or predicts no box of the class
            that touches the object.
    """
    name = shown.names[shown.chosen]
    if name not in detector.classes:
        raise ExperimentError(f"{detector.name}: knows no class {name!r}")
    try:
        prepared = detector.prepare(read_image(shown.path))
        sample, levels = detector.predict(prepared)
    except ImageError as error:
        raise ExperimentError(str(error)) from error
    except (ValueError, RuntimeError, MemoryError) as error:  # such as no memory on the device
        raise ExperimentError(f"{detector.name}: {shown.path}: {one_line(error)}") from error
    boxes = shown.boxes.float() * torch.tensor(sample.scale_factor).float().repeat(2)
    # Objects of classes that the detector does not know do not compete for anchors.
    labels = torch.tensor(
        [detector.classes.index(name) if name in detector.classes else -1 for name in shown.names]
    )
    maps = instance_maps(levels, boxes, labels, shown.chosen, sample.img_shape[:2])
    if maps is None:
        raise ExperimentError(f"{detector.name}: predicts no box of {name} that touches the object")
    height, width = sample.img_shape[:2]
    pixels = prepared["inputs"][:, :height, :width].flip(0).permute(1, 2, 0)  # BGR to RGB [H, W, 3]
    return FigureRow(detector.name, pixels.numpy(), maps, boxes.numpy(), shown.chosen, shown.names)


def labelled(row: FigureRow) -> FigureRow:
    """The row with the title of its run in place of the run's id, on lines that fit beside a panel."""
    run = load_runs().get(row.detector)
    title = run.title.partition(" (")[0] if run else row.detector
    return replace(row, detector="\n".join(textwrap.wrap(shown_name(title), 18)))


def described(row: FigureRow) -> str:
    """A description of the row, in one line."""
    x1, y1, x2, y2 = (float(side) for side in row.gt_boxes[row.instance])
    classified, localised = row.maps.classification, row.maps.localisation
    size = ((x2 - x1) * (y2 - y1)) ** 0.5
    return (
        f"{row.detector}: {row.class_name}, best classified score {classified.score:.3f} IoU "
        f"{classified.iou:.3f}, best localised score {localised.score:.3f} IoU {localised.iou:.3f}, "
        f"{row.maps.distance / size:.3f} object sizes apart"
    )
