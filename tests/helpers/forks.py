"""Commands as forks of processes that have imported what they need, which takes seconds each time.

    python -m tood.runtime.preloaded tests/helpers/forks.py JOBS PROGRAM ARGUMENT ..

JOBS is the address of the process that forks the jobs of the command, empty if there is none.
"""

import atexit
import functools
import os
import runpy
import sys
from pathlib import Path

from tood.runtime import preloaded

# What the command line and the rules import, and sources that they read. The jobs' process has what a call of
# the workflow preloads.
COMMANDS = (
    *("snakemake.cli", "tood.cli", "tood.workflow.call", "tood.workflow.stages"),
    *("tood.report.figures", "tood.report.everything", "tood.commands.checks"),
    "helpers.read_sources",
)


@functools.cache
def _address(modules: tuple[str, ...]) -> str:
    """Of a process that has imported these modules and ends with this one; empty if there can be none."""
    before = dict(os.environ)
    os.environ.pop(preloaded.ADDRESS, None)
    tests = str(Path(__file__).parents[1])  # has `helpers`; forks have an environment of their own
    os.environ["PYTHONPATH"] = os.pathsep.join([tests, *filter(None, [before.get("PYTHONPATH")])])
    try:
        preloaded.start_server(modules)
        return os.environ.get(preloaded.ADDRESS, "")
    finally:
        os.environ.clear()
        os.environ.update(before)


def forked(command: list[object]) -> tuple[list[object], dict[str, str]]:
    """What runs a Python program of the environment as a fork, and its environment."""
    from tood.workflow.call import MODULES

    call = [sys.executable, "-m", preloaded.__name__, __file__, _address(MODULES), *command]
    return call, {preloaded.ADDRESS: _address(COMMANDS)}


def main() -> None:
    """In the fork."""
    jobs, *command = sys.argv[1:]
    sys.argv[:] = command
    if jobs:
        os.environ[preloaded.ADDRESS] = jobs
    sys.path[0] = str(Path(sys.argv[0]).parent)
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # a fork ends without them


if __name__ == "__main__":
    main()
