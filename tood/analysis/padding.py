"""The share of padding in a network's input: training images of COCO's sizes, resized and put together.

A replica is padded to the largest of its images, and its sides to a multiple of 32. For comparison, the whole
batch is also computed as one group. Sizes are drawn from those of `experiments/planning.yaml`.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from mmengine.config import Config

from tood.runtime.files import write_text
from tood.study.declarations import load_runs
from tood.study.paths import CONFIGS, PADDING
from tood.study.planning import load_planning

IMAGES = 16_000


class Padding(NamedTuple):
    """Of the training images of one run."""

    replica: int  # images
    of_batch: float  # share of padding in the pixels, if the whole batch were one group
    of_replica: float  # share of padding
    megapixels: float  # of an image, padding included


def padding(config: Config, sizes: Mapping[tuple[int, int], int]) -> Padding:
    """Simulate one epoch of a configuration.

    Args:
        config: resolved or not, at the paper's input size.
        sizes: number of images by (width, height).
    """
    rng = np.random.default_rng(0)
    original = rng.choice(list(sizes), IMAGES, p=np.array([*sizes.values()]) / sum(sizes.values()))  # [N, 2]
    resized = _resized(original, config.input.size, _short_sides(config, rng))
    wide = original[:, 0] >= original[:, 1]
    groups = {
        size: _groups(resized, wide, size, config.model.data_preprocessor.pad_size_divisor)
        for size in (config.train.batch_size, config.train.replica)
    }
    content = resized.prod(1).sum()
    of_batch, of_replica = groups[config.train.batch_size], groups[config.train.replica]
    return Padding(
        config.train.replica, 1 - content / of_batch, 1 - content / of_replica, of_replica / IMAGES / 1e6
    )


def of_runs() -> Iterator[tuple[str, Padding]]:
    """Every declared run and its padding."""
    runs = load_runs()
    sizes = {(width, height): number for width, height, number in load_planning(runs).image_sizes.counts}
    known: dict[str, Padding] = {}
    for run in runs.values():
        config = Config.fromfile(CONFIGS / run.config)
        key = str((config.input, config.train.batch_size, config.train.replica))
        known.setdefault(key, padding(config, sizes))
        yield run.id, known[key]


def write_padding(output: Path = PADDING) -> pd.DataFrame:
    """Write the padding of every run as CSV, and return it."""
    table = pd.DataFrame([{"run": run, **padding._asdict()} for run, padding in of_runs()])
    write_text(output, table.to_csv(index=False, float_format="%.4f"))
    return table


def _short_sides(config: Config, rng: np.random.Generator) -> np.ndarray:
    """[N] upper limit of the shorter side of each image, drawn as in training."""
    if not config.input.train_short_sides:
        return np.full(IMAGES, min(config.input.size))
    ((kind, sides),) = config.input.train_short_sides.items()
    return rng.integers(sides[0], sides[1] + 1, IMAGES) if kind == "range" else rng.choice(sides, IMAGES)


def _resized(original: np.ndarray, size: Sequence[int], short_sides: np.ndarray) -> np.ndarray:
    """[N, 2] sides after mmdet's resizing, which keeps the aspect ratio."""
    factor = np.minimum(max(size) / original.max(1), short_sides / original.min(1))  # [N]
    return (original * factor[:, None] + 0.5).astype(int)


def _groups(resized: np.ndarray, wide: np.ndarray, size: int, divisor: int) -> float:
    """Pixels of all images, padded in groups of this size and of one orientation, in the order given."""
    pixels = 0
    for orientation in (True, False):
        sides = resized[wide == orientation]
        whole = sides[: len(sides) // size * size].reshape(-1, size, 2)  # [groups, size, 2]
        for group in (*whole, *([sides[len(whole) * size :]] if len(sides) % size else [])):
            padded = -(-group.max(0) // divisor) * divisor
            pixels += len(group) * int(padded.prod())
    return float(pixels)
