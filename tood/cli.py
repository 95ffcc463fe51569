"""The `tood` command: `tood.commands` has a module for each subcommand, imported when it is called."""

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from tood.runtime.failures import InputError

COMMANDS = {
    "runs": "list every run and its rows in tables",
    "plan": "estimate GPU-hours and disk of runs before they are trained",
    "doctor": "check the environment, the data and this machine",
    "progress": "show the state of all runs of a study, also while they train",
    "show": "show a run's state, results, provenance and files",
    "classes": "AP, precision and recall, and confusions by class",
    "compare": "compare the runs that two studies share, seed by seed",
    "report": "render tables and report.html of a study from what is there",
    "detect": "detect objects on any images",
    "maps": "draw where detectors classify and localise one object best, as in Figures 1 and 4",
    "assign": "draw the positives of several schemes on one image",
    "import": "take a file of released weights as the model of a run",
    "submission": "check a file for COCO's server against the list of its images",
    "scores": "print the entry for experiments/server_scores.yaml from the server's answer",
    "complexity": "count parameters and FLOPs of the paper's models",
    "images": "draw the images of a scale, and describe them",
    "padding": "measure the padding of training images at COCO's sizes",
}
_MODULES = {"import": "import_weights"}  # whose name is a word of Python


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand.

    Args:
        arguments: arguments of the command line; None takes the program's own.

    Returns:
        The exit status: 0; 1 if `doctor` finds that something required is missing, or `detect` an image that
        cannot be read; 2 for a wrong declaration or option; 130 where the user stopped it, 141 where nobody
        reads the output to its end, such as `head`: 128 and the number of the signal, as of other programs.
    """
    try:
        try:
            return _run(arguments)
        finally:
            if sys.stdout:  # it may be closed
                sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains as it ends
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _run(arguments: Sequence[str] | None) -> int:
    own, here = Path(__file__).resolve(), Path("tood/cli.py").resolve()
    if here.is_file() and here != own:  # results would be read and made by another version of the code
        print(
            f"tood: this is the command of {own.parents[1]}, the folder is another clone; activate its "
            "environment, or type `python -m tood.cli`",
            file=sys.stderr,
        )
        return 2
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        options = _parser(given).parse_args(given)
        return options.run_command(options)
    except InputError as error:
        print(f"tood: {error}", file=sys.stderr)
        return 2


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """A parser of the command line that knows the options of the command in it."""
    called = next((argument for argument in arguments if not argument.startswith("-")), None)
    parser = argparse.ArgumentParser(prog="tood", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text)
        if name == called:
            module = importlib.import_module(f"tood.commands.{_MODULES.get(name, name)}")
            module.add_options(command)
            command.set_defaults(run_command=module.run)
    return parser


if __name__ == "__main__":
    sys.exit(main())
