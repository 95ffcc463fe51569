"""Silence about what libraries say of themselves."""

import contextlib
import io
import logging
import warnings


def quiet() -> None:
    """Log warnings and errors alone: mmengine lists how each single parameter was initialised."""
    logging.disable(logging.INFO)


def silence() -> None:
    """Neither log nor warn, as what a command prints is read by people."""
    quiet()
    warnings.simplefilter("ignore")


def silent() -> contextlib.redirect_stdout:
    """Within a block, leave out what libraries print: mmdet and pycocotools name what they read.

    From here on they neither log nor warn, also after the block.
    """
    silence()
    return contextlib.redirect_stdout(io.StringIO())
