"""The archives of COCO 2017, as `experiments/coco.yaml` declares them."""

from pathlib import Path

from tood.data.coco import Archive
from tood.study.declarations import Declaration, load_declared
from tood.study.paths import EXPERIMENTS

ARCHIVES = EXPERIMENTS / "coco.yaml"


class _Archives(Declaration):
    archives: list[Archive]


def load_archives(path: Path = ARCHIVES) -> dict[str, Archive]:
    """All archives by name, in the order in which they are fetched."""
    return {archive.name: archive for archive in load_declared(_Archives, path).archives}
