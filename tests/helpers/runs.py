"""Runs that stand for others in tests of what depends on the head alone."""

import functools

from mmengine.config import Config

from tood.study.declarations import load_runs, select_runs
from tood.study.paths import CONFIGS


@functools.cache
def head_of(config: str) -> type:
    """The class of a configuration's head."""
    return Config.fromfile(CONFIGS / config).model.bbox_head.type


@functools.cache
def one_of_each_head() -> tuple[str, ...]:
    """A run for each configuration with ResNet-50 and its options of the head; for other heads, one run.

    Sweeps of a training's parameters, schedules and backbones are left out. Runs without options come first.
    """
    found: dict[tuple, str] = {}
    heads = set()
    for run in sorted(select_runs(None, load_runs()), key=lambda run: len(run.options)):
        head = head_of(run.config)
        options = tuple(key for key in run.options if "bbox_head" in key)
        if run.backbone == "ResNet-50":
            heads.add(head)
            found.setdefault((run.config, options), run.id)
        elif head not in heads:
            found.setdefault((head,), run.id)
    return tuple(found.values())


def one_of_each_part() -> tuple[str, ...]:
    """`one_of_each_head`, and a run for each other backbone: neither depends on the other."""
    runs, found = load_runs(), list(one_of_each_head())
    backbones = {runs[run].backbone for run in found}
    for run in runs.values():
        if run.backbone not in backbones:
            found.append(run.id)
            backbones.add(run.backbone)
    return tuple(found)
