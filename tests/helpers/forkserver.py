"""The process from which tests fork others, with what a training imports."""

import multiprocessing
import os
from multiprocessing import forkserver
from pathlib import Path
from unittest import mock


def start_forkserver() -> None:
    """Start it, unless it runs; the start method "forkserver" finds it."""
    multiprocessing.set_forkserver_preload(["helpers.trainer"])
    folder = Path(__file__).parents[1]
    with mock.patch.dict(os.environ, PYTHONPATH=f"{folder}{os.pathsep}{folder.parent}"):
        forkserver.ensure_running()
