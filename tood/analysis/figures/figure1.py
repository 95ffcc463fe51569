"""Figures 1 and 4: objects chosen by rule, under each detector."""

import os
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from mmdet.datasets import CocoDataset

from tood.analysis.figures.chosen_objects import Case, caption, choose
from tood.analysis.figures.files import save_captioned
from tood.analysis.figures.map_figures import FigureRow, draw_figure1, draw_figure4
from tood.analysis.figures.maps import instance_maps
from tood.analysis.table6.anchors import anchors_of
from tood.analysis.table6.best_anchors import BestAnchors
from tood.evaluation.detection import dense_predictions
from tood.evaluation.trained_run import Trained, load_trained
from tood.runtime.files import read_json
from tood.study.jobs import Execution, Figure1Job
from tood.study.paths import RunPaths


def figures(job: Figure1Job, execution: Execution, folder: Path) -> None:
    """Choose the objects by `tood.analysis.figures.chosen_objects`, and draw them under every detector.

    Args:
        job: the detectors, the baseline first. Best anchors that are not beside their weights are measured.
        execution: how their predictions are computed.
        folder: `figure1` and `figure4` are written here, as PNG, as PDF, and as Markdown their captions.

    Raises:
        RuntimeError: as `load_trained`.
        ValueError: there is no object that all detectors touch.
    """
    detectors = {name: load_trained(run, execution) for name, run in job.detectors.items()}
    names = list(detectors)
    records = {
        name: pd.DataFrame(_best_anchors(RunPaths(run.model.parent).best_anchors, detectors[name]))
        for name, run in job.detectors.items()
    }
    choice = choose(records, detectors[names[0]].dataset.metainfo["classes"])
    first, *others = choice.cases
    # If no other image has an object, Figure 4 shows the object of Figure 1 again.
    shown = {1: [first], 4: others or [first]}
    rows = {case: [row(trained, name, case) for name, trained in detectors.items()] for case in choice.cases}
    files = {case.image_id: _file_name(detectors[names[0]].dataset, case.image_id) for case in choice.cases}
    drawn = {1: draw_figure1(rows[first]), 4: draw_figure4([rows[case] for case in shown[4]])}
    for number, figure in drawn.items():
        text = caption(choice, names, number, shown[number], files, job.seed)
        save_captioned(figure, folder / f"figure{number}", text)


def _best_anchors(path: Path, trained: Trained) -> Mapping[str, list]:
    """Those of every object, as `BestAnchors.to_json` gives them."""
    if path.is_file():
        return read_json(path)["objects"]
    best = BestAnchors()
    predicted = dense_predictions(
        trained.model, trained.dataset, device=trained.device, label="best anchors", indices=trained.indices
    )
    for sample, levels in predicted:
        objects = sample.gt_instances
        best.add(sample, anchors_of(levels, objects.bboxes, objects.labels))
    return best.to_json(best.objects)["objects"]


def _index(dataset: CocoDataset, image_id: int) -> int:
    return next(i for i in range(len(dataset)) if dataset.get_data_info(i)["img_id"] == image_id)


def _file_name(dataset: CocoDataset, image_id: int) -> str:
    """The name of an image as the annotation file has it."""
    path = dataset.get_data_info(_index(dataset, image_id))["img_path"]
    return path.removeprefix(os.path.join(dataset.data_prefix["img"], ""))


def row(trained: Trained, name: str, case: Case) -> FigureRow:
    """One detector's row of the figure.

    Args:
        trained: the detector.
        name: its name in the figure.
        case: the object.

    Raises:
        ValueError: the detector predicts no box that touches the object.
    """
    dataset = trained.dataset
    index = _index(dataset, case.image_id)
    ((sample, levels),) = dense_predictions(
        trained.model, dataset, device=trained.device, label=f"figure 1, {name}", indices=[index]
    )
    gt = sample.gt_instances.cpu()
    maps = instance_maps(levels, gt.bboxes.float(), gt.labels, case.instance, sample.img_shape[:2])
    if maps is None:
        raise ValueError(f"{name} predicts no box that touches the chosen object")
    pixels = dataset[index]["inputs"]  # [3, H, W] BGR
    return FigureRow(
        detector=name,
        image=pixels.flip(0).permute(1, 2, 0).numpy(),  # [H, W, 3] RGB
        maps=maps,
        gt_boxes=gt.bboxes.numpy(),
        instance=case.instance,
        names=[dataset.metainfo["classes"][label] for label in gt.labels.tolist()],
    )
