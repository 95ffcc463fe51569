"""Figures behind Table 6: how classification and localisation of its runs agree."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from tood.analysis.figures.files import save_captioned
from tood.analysis.figures.style import AS_DRAWN, of_methods
from tood.analysis.table6.box_counts import KINDS, CountOptions, name_boxes
from tood.evaluation.detection import coco_evaluation
from tood.runtime.files import read_json
from tood.study.paths import RunPaths

CONFIDENCE_BINS = 20  # of [0, 1]
SCORE_THRESHOLD = 0.05  # below it all detectors of the paper drop a box
_WIDTH = 6.3  # inches, with which a telephone shows a figure whole


def draw_views(runs: Mapping[str, Sequence[RunPaths]], annotations: Path, folder: Path) -> None:
    """Draw every view, and write its caption beside it.

    Args:
        runs: files of each seed, by the name in the figures.
        annotations: COCO annotation file of the images that were evaluated.
        folder: figures as PNG and PDF, and captions as Markdown are written here.
    """
    measured = {
        name: {run.seed: read_json(run.best_anchors) for run in seeds} for name, seeds in runs.items()
    }
    apart = {
        name: {seed: best_anchors(pd.DataFrame(content["objects"])) for seed, content in of_run.items()}
        for name, of_run in measured.items()
    }
    density = {
        name: np.sum([content["density"] for content in of_run.values()], axis=0)
        for name, of_run in measured.items()
    }
    detected = {
        name: [(read_json(run.evaluated_images), read_json(run.detections)) for run in seeds]
        for name, seeds in runs.items()
    }
    curves = {
        name: [ap_by_iou(annotations, *of_seed) for of_seed in of_run] for name, of_run in detected.items()
    }
    truth = read_json(annotations)
    kinds = {
        name: np.mean([kinds_by_confidence(truth, *of_seed) for of_seed in of_run], axis=0)
        for name, of_run in detected.items()
    }
    views = {
        "distances": (draw_distances(apart), caption_distances(apart)),
        "score_iou": (draw_density(density), caption_density(density)),
        "ap_by_iou": (draw_ap_by_iou(curves), caption_ap_by_iou(curves)),
        "box_kinds": (draw_box_kinds(kinds), caption_box_kinds(kinds)),
    }
    most = max(map(len, runs.values()))
    of_seeds = "" if most == 1 else f" Over {_range(map(len, runs.values()))} seeds."
    for view, (figure, caption) in views.items():
        text, *table = caption.split("\n\n", 1)
        save_captioned(figure, folder / view, "\n\n".join([f"{text}{of_seeds}", *table]))


# Distance of the best anchors


def best_anchors(frame: pd.DataFrame) -> pd.DataFrame:
    """How far apart both best anchors of an object are, and how much IoU this loses.

    Args:
        frame: the objects of one seed, with columns as of `tood.analysis.table6.best_anchors.ObjectRecord`.

    Returns:
        A row per object: distance, in sizes of the object; lost, the IoU of the best-localised box
        less that of the best-classified one. Both are nan where no anchor belongs to an object.
    """
    objects = frame[["distance", "localised", "classified"]].astype(float)
    return objects.assign(lost=objects["localised"] - objects["classified"])[["distance", "lost"]]


def cumulative(values: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Share of the values, including nan, that are at most `at`."""
    return np.searchsorted(np.sort(values[~np.isnan(values)]), at, side="right") / max(len(values), 1)


_DISTANCES = {  # column: label, largest value shown
    "distance": ("distance of the best anchors, in sizes of the object (less is better)", 1.0),
    "lost": ("IoU lost by the best-classified box (less is better)", 1.0),
}


def draw_distances(objects: Mapping[str, Mapping[int, pd.DataFrame]]) -> Figure:
    """Cumulative distributions of the distance between both best anchors and of the IoU lost, a line per run.

    Args:
        objects: `best_anchors` of each run, by seed.
    """
    figure = Figure(figsize=(_WIDTH, 7.4), layout="constrained")
    panels = figure.subplots(2, 1)
    looks = of_methods(objects)
    for axes, (column, (label, largest)) in zip(panels, _DISTANCES.items(), strict=True):
        at = np.linspace(0, largest, 401)
        for place, (name, seeds) in enumerate(objects.items()):
            look = looks[name]
            of_seeds = [cumulative(frame[column].to_numpy(), at) for frame in seeds.values()]
            bounds = np.min(of_seeds, axis=0), np.max(of_seeds, axis=0)
            axes.fill_between(at, *bounds, color=look.colour, alpha=0.2, linewidth=0)
            axes.plot(
                at,
                cumulative(pd.concat(seeds.values())[column].to_numpy(), at),
                label=name,
                marker=look.marker,
                markersize=5,
                markevery=(10 * place, 40),  # the markers of two lines are not on one another
                **look.line,
            )
        axes.set(xlabel=label, ylabel="share of objects", xlim=(0, largest), ylim=(0, 1))
        _point_to_better(axes)
        axes.grid(alpha=0.3)
        seaborn.despine(ax=axes)
    _legend_above(figure, panels[0])
    return figure


def _point_to_better(axes: Axes) -> None:
    """An arrow to the upper left, where the two best anchors of more objects are closer together."""
    axes.annotate(
        "better",
        xy=(0.62, 0.44),
        xytext=(0.78, 0.24),
        xycoords="axes fraction",
        textcoords="axes fraction",
        ha="center",
        va="center",
        color="0.2",
        arrowprops={"arrowstyle": "-|>", "color": "0.2", "linewidth": 1.5, "mutation_scale": 16},
    )


def caption_distances(objects: Mapping[str, Mapping[int, pd.DataFrame]]) -> str:
    """The caption of the figure, with the means and what they say; arguments as of `draw_distances`."""
    all_seeds = {name: pd.concat(seeds.values()) for name, seeds in objects.items()}
    means = {
        column: {name: frame[column].mean() for name, frame in all_seeds.items()} for column in _DISTANCES
    }
    shared = set.intersection(*map(set, objects.values()))
    every = " in every seed" * any(len(seeds) > 1 for seeds in objects.values())
    every += " that all have" * any(set(seeds) != shared for seeds in objects.values())

    def of_each(column: str) -> str:
        return _listed(
            {name: "–" if np.isnan(mean) else f"{mean:.3f}" for name, mean in means[column].items()}
        )

    def least(column: str, has: str) -> str:
        """Which method has the least in every seed that all have; empty where no one does."""
        by_seed = [{name: objects[name][seed][column].mean() for name in objects} for seed in shared]
        for name in objects if len(objects) > 1 else ():
            if by_seed and all(
                of_all[name] < mean for of_all in by_seed for other, mean in of_all.items() if other != name
            ):
                return f"{name} {has}{every}. "
        return ""

    beyond = {
        name: int((frame["distance"] > _DISTANCES["distance"][1]).sum()) for name, frame in all_seeds.items()
    }
    lacking = {name: int(frame["lost"].isna().sum()) for name, frame in all_seeds.items()}
    ends = [
        f"objects {why} ({_listed({name: f'{number:,}' for name, number in counts.items() if number})})"
        for counts, why in (
            (beyond, "beyond its end"),
            (lacking, "that no predicted box of their class touches"),
        )
        if any(counts.values())
    ]
    return (
        "**Best anchors.** Above: share of all objects for which the distance between the anchor with the "
        "highest score and the anchor with the highest IoU is at most x, in units of the square root of the "
        "object's area. Below: share of all objects whose top-scoring box has an IoU at most x below the "
        "best box. The farther up and to the left a line is, the better the two tasks agree; markers only "
        "tell the lines apart. With several seeds, a band reaches from the lowest to the highest. Mean "
        f"distance: {of_each('distance')}. Mean IoU lost: {of_each('lost')}. "
        f"{least('distance', 'has its best anchors closest together')}"
        f"{least('lost', 'loses the least IoU')}If several anchors have "
        "about equally good boxes, as after the alignment of boxes, the best anchor may be far away and no "
        f"IoU is lost. {_range(map(len, all_seeds.values()))} objects each."
        + (f" A line ends below 1 because of {' and of '.join(ends)}." if ends else "")
    )


def _range(counts: Iterable[int]) -> str:
    """The numbers of several methods, such as `3` or `2 to 3`."""
    known = sorted(set(counts))
    return " to ".join(f"{count:,}" for count in dict.fromkeys((known[0], known[-1])))


def _listed(values: Mapping[str, str]) -> str:
    return "; ".join(f"{name} {value}" for name, value in values.items())


# Score against IoU

_INNER = [0.2, 0.4, 0.6, 0.8]
_EMPTY = "0.93"  # of a panel, on a dark page too: the rarest cells are dark


def _plain(value: float, _: int) -> str:
    """A share without an exponent, as it stands beside others that need none."""
    return f"{value:.9f}".rstrip("0").rstrip(".")


def draw_density(density: Mapping[str, np.ndarray]) -> Figure:
    """Density of score and IoU of the most confident anchors, a panel per run."""
    columns = min(2, len(density))
    rows = -(-len(density) // columns)
    figure = Figure(figsize=(2.7 * columns + 0.9, 2.7 * rows + 0.3), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flatten()
    shares = {name: counts / max(counts.sum(), 1) for name, counts in density.items()}
    top = max([float(share.max()) for share in shares.values()] + [1e-6])
    norm = LogNorm(vmin=top / 1000, vmax=top)
    for axes, (name, share) in zip(panels, shares.items(), strict=False):
        shown = axes.imshow(
            np.ma.masked_equal(share, 0).T, origin="lower", extent=(0, 1, 0, 1), cmap="viridis", norm=norm
        )
        axes.patch.set(facecolor=_EMPTY, gid=AS_DRAWN)
        axes.set_title(name, fontsize=10)
        axes.set(xticks=_INNER, yticks=_INNER)  # those at the ends would touch those of the next panel
    for axes in panels[len(shares) :]:
        axes.remove()
    figure.supxlabel("score that NMS ranks by")
    figure.supylabel("IoU with the object")
    beside = list(panels[: len(shares)])
    figure.colorbar(shown, ax=beside, label="share of anchors", format=_plain, extend="min")
    return figure


def caption_density(density: Mapping[str, np.ndarray]) -> str:
    """The caption of the figure, with the share of confident anchors that are badly localised."""
    shares = "; ".join(f"{name} {_share_misplaced(counts)}" for name, counts in density.items())
    return (
        "**Score against IoU.** The 50 most confident anchors of each object before NMS, on which Table 6 "
        "measures PCC. The yellower a cell, the larger is its share of these anchors; the darkest may have "
        "less than the scale says, and where it is light grey there is none. In an aligned detector the "
        "score rises with the IoU. Share of anchors whose box has an IoU below 0.5, among the anchors with a "
        f"score of at least 0.5: {shares}. Methods differ in how high their scores are, so compare how many "
        "anchors there are, too."
    )


def misplaced(counts: np.ndarray) -> tuple[int, int]:
    """Of counts [score, IoU]: how many have a score >= 0.5 and IoU < 0.5, and how many a score >= 0.5."""
    half = len(counts) // 2
    return int(counts[half:, :half].sum()), int(counts[half:].sum())


def _share_misplaced(counts: np.ndarray) -> str:
    few, confident = misplaced(counts)
    return f"{100 * few / confident:.1f} % of {confident:,}" if confident else "no such score"


# AP by IoU threshold


def ap_by_iou(annotations: Path, image_ids: list[int], detections: list[dict]) -> pd.Series:
    """COCO AP in percent at each of the ten IoU thresholds whose mean is AP; nan without objects.

    Args:
        annotations: COCO annotation file.
        image_ids: images that count.
        detections: COCO results.
    """
    evaluation = coco_evaluation(annotations, detections, image_ids)
    precision = evaluation.eval["precision"][..., 0, -1]  # [T, R, K], all areas, 100 detections
    means = [np.mean(values[values > -1]) * 100 if (values > -1).any() else np.nan for values in precision]
    return pd.Series(means, index=evaluation.params.iouThrs.round(2))


def draw_ap_by_iou(curves: Mapping[str, Sequence[pd.Series]]) -> Figure:
    """AP over the IoU threshold, the mean of the seeds, a line per run."""
    figure = Figure(figsize=(_WIDTH, 4.6), layout="constrained")
    axes = figure.subplots()
    looks = of_methods(curves)
    for name, seeds in curves.items():
        look = looks[name]
        table = pd.concat(seeds, axis=1)
        axes.plot(table.index, table.mean(axis=1), marker=look.marker, markersize=5, label=name, **look.line)
        if len(seeds) > 1:
            axes.fill_between(
                table.index, table.min(axis=1), table.max(axis=1), alpha=0.15, color=look.colour, linewidth=0
            )
    axes.set(
        xlabel="IoU threshold",
        ylabel="AP in percent (more is better)",
        ylim=(0, None),
        xticks=[0.5, 0.6, 0.7, 0.8, 0.9],
    )
    axes.grid(alpha=0.3)
    seaborn.despine(ax=axes)
    _legend_above(figure, axes)
    return figure


def _legend_above(figure: Figure, axes: Axes) -> None:
    """The legend of the lines in a panel, above all panels and so on no data."""
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=2, frameon=False, handlelength=3.5)


def caption_ap_by_iou(curves: Mapping[str, Sequence[pd.Series]]) -> str:
    """The caption of the figure, with AP75."""
    means = "; ".join(
        f"{name} {np.mean([curve.mean() for curve in seeds]):.1f} and "
        f"{np.mean([curve[0.75] for curve in seeds]):.1f}"
        for name, seeds in curves.items()
    )
    return (
        "**AP by IoU threshold.** AP at the ten thresholds whose mean is COCO's AP. A line is the mean over "
        "the seeds; with several seeds, a band reaches from the lowest to the highest. In the paper TOOD "
        f"gains more in AP75 than in AP. Here AP and AP75 are: {means}."
    )


# Kinds of boxes


def kinds_by_confidence(truth: dict, image_ids: list[int], detections: list[dict]) -> np.ndarray:
    """Counts [kind, confidence] of the detections, as in Table 6, by equal parts of [0, 1].

    Args:
        truth: the annotation file.
        image_ids: images that count.
        detections: COCO results on them.
    """
    chosen = set(image_ids)
    of_images = [annotation for annotation in truth["annotations"] if annotation["image_id"] in chosen]
    counts = np.zeros((len(KINDS), CONFIDENCE_BINS), dtype=np.int64)
    for score, kind in name_boxes(truth | {"annotations": of_images}, detections, CountOptions()):
        counts[KINDS.index(kind), min(int(score * CONFIDENCE_BINS), CONFIDENCE_BINS - 1)] += 1
    return counts


def draw_box_kinds(kinds: Mapping[str, np.ndarray]) -> Figure:
    """Counts of boxes over confidence, a panel per kind and a line per run."""
    columns = 2
    rows = -(-(len(KINDS) + 1) // columns)
    figure = Figure(figsize=(_WIDTH, 2.4 * rows), layout="constrained")
    *panels, last = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flatten()
    centres = (np.arange(CONFIDENCE_BINS) + 0.5) / CONFIDENCE_BINS
    top = max(float(counts.max(initial=0)) for counts in kinds.values())
    looks = of_methods(kinds)
    for place, (axes, kind) in enumerate(zip(panels, KINDS, strict=True)):
        for name, counts in kinds.items():
            axes.plot(
                centres,
                counts[place],
                drawstyle="steps-mid",
                marker=looks[name].marker,
                markersize=4,
                markevery=np.flatnonzero(counts[place]).tolist(),  # no box, no marker
                label=name,
                linewidth=1.2,
                **looks[name].line,
            )
        axes.set(title=kind, xlim=(0, 1), yscale="symlog", ylim=(0, 2 * max(top, 1)))
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.grid(alpha=0.3)
    panels[-2].tick_params(labelbottom=True)  # below it is the legend
    last.set_axis_off()
    last.legend(*panels[0].get_legend_handles_labels(), loc="center", frameon=False, handlelength=3.5)
    figure.supxlabel("confidence")
    figure.supylabel("boxes per 0.05 of confidence")
    return figure


def caption_box_kinds(kinds: Mapping[str, np.ndarray]) -> str:
    """The caption of the figure, and a table of the counts of Table 6."""
    totals = [
        f"| {name} | {' | '.join(f'{total:,.0f}' for total in counts.sum(axis=1))} |"
        for name, counts in kinds.items()
    ]
    table = [f"| In all | {' | '.join(KINDS)} |", f"| :--- |{' ---: |' * len(KINDS)}", *totals]
    return (
        "**Kinds of boxes.** Detections after NMS by kind, as Table 6 counts them, and by confidence: a "
        "marker is the number of boxes in a twentieth of the confidence, as a mean over the seeds. Correct: "
        "IoU of at least 0.5 with an object not yet taken. Redundant: with one that is taken. Error: IoU "
        "between 0.1 and 0.5. Ignored: in a crowd. Background: the rest. The scale is linear below 1 box, "
        f"logarithmic above. Boxes with a score below {SCORE_THRESHOLD} are dropped before NMS; a confidence "
        "is lower only where a head multiplies the score by another estimate, as the parallel head "
        "of ATSS does. The table has all boxes, as a mean over the seeds.\n\n" + "\n".join(table)
    )
