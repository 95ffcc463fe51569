"""Commands as forks of a process that has imported what they need, which takes seconds each time.

    python -m tood.runtime.preloaded tests/helpers/forks.py ADDRESS PROGRAM ARGUMENT ..

ADDRESS is that of the process; the jobs of the command are forked from it too. It is empty if there is none.
"""

import atexit
import functools
import os
import runpy
import sys
from pathlib import Path

from tood.runtime import preloaded

_SHARED = "TOOD_TESTS_FORKED_FROM"  # environment variable: the address, for the workers of pytest
# What the command line and the rules import, and sources that they read
_COMMANDS = (
    *("snakemake.cli", "tood.cli", "tood.workflow.call", "tood.workflow.stages"),
    *("tood.report.figures", "tood.report.everything", "tood.commands.checks"),
    "helpers.read_sources",
)


@functools.cache
def _address() -> str:
    """Of a process that has the imports of commands and of jobs, and ends with the one that started it."""
    return os.environ.get(_SHARED) or _start()


def _start() -> str:
    from tood.workflow.call import MODULES

    before = dict(os.environ)
    os.environ.pop(preloaded.ADDRESS, None)
    tests = str(Path(__file__).parents[1])  # has `helpers`; forks have an environment of their own
    os.environ["PYTHONPATH"] = os.pathsep.join([tests, *filter(None, [before.get("PYTHONPATH")])])
    try:
        preloaded.start_server((*MODULES, *_COMMANDS))
        return os.environ.get(preloaded.ADDRESS, "")
    finally:
        os.environ.clear()
        os.environ.update(before)


def share() -> None:
    """Start the process for all workers that this one starts from now on."""
    os.environ[_SHARED] = _start()


def forked(command: list[object]) -> tuple[list[object], dict[str, str]]:
    """What runs a Python program of the environment as a fork, and its environment."""
    call = [sys.executable, "-m", preloaded.__name__, __file__, _address(), *command]
    return call, {preloaded.ADDRESS: _address()}


def main() -> None:
    """In the fork."""
    address, *command = sys.argv[1:]
    sys.argv[:] = command
    if address:
        os.environ[preloaded.ADDRESS] = address
    sys.path[0] = str(Path(sys.argv[0]).parent)
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # a fork ends without them


if __name__ == "__main__":
    main()
