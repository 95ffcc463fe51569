"""Backbone and neck as compiled graphs."""

import os
import shutil
from typing import Any

from mmdet.models.detectors import SingleStageDetector


def compile_network(model: SingleStageDetector, **how: Any) -> None:
    """Compile backbone and neck in place when they are first called; names of weights stay as they are.

    The head, the losses and the update stay as they are. A new image size compiles again, at most a few
    times, because torch then makes a graph for any size.

    Args:
        model: in training mode, on its device.
        how: options of `torch.compile`.

    Raises:
        RuntimeError: there is no C++ compiler, which torch needs for a CPU and for a GPU.
    """
    compiler = os.environ.get("CXX", "g++")
    if "backend" not in how and shutil.which(compiler) is None:
        raise RuntimeError(
            f"compile=true: torch.compile needs a C++ compiler, and there is no {compiler}; install one, set "
            "CXX, or leave compile out"
        )
    model.backbone.compile(**how)
    if model.with_neck:
        model.neck.compile(**how)
