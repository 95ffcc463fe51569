"""The `tood` command: `tood.commands` has a module for each subcommand, imported when it is called."""

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from tood.runtime.failures import InputError
from tood.runtime.text import did_you_mean

COMMANDS = {
    "runs": "list every run and its rows in tables",
    "plan": "estimate GPU-hours and disk of runs before they are trained",
    "doctor": "check the environment, the data and this machine",
    "progress": "show the state of all runs of a study, also while they train",
    "show": "show a run's state, results, provenance and files",
    "classes": "AP, precision and recall, and confusions by class",
    "compare": "compare the runs that two studies share, seed by seed",
    "report": "render tables and report.html of a study from what is there",
    "keep": "copy the weights of a run to its record, so that they travel with it",
    "detect": "detect objects on any images",
    "export": "write a detector as ONNX or for torch.export",
    "maps": "draw where detectors classify and localise one object best, as in Figures 1 and 4",
    "assign": "draw the positives of several schemes on one image",
    "import": "take a file of released weights as the model of a run",
    "submission": "check a file for COCO's server against the list of its images",
    "scores": "print the entry for experiments/server_scores.yaml from the server's answer",
    "complexity": "count parameters and FLOPs of the paper's models",
    "images": "draw the images of a scale, and describe them",
    "padding": "measure the padding of training images at COCO's sizes",
    "completion": "print what lets a shell complete commands, options, runs and studies",
}
_MODULES = {"import": "import_weights"}  # whose name is a word of Python
_NO_CLONE = ("completion", "submission")  # commands that read nothing of the repository
_NO_STUDY = (*_NO_CLONE, "runs", "scores", "images", "padding")  # nor of a study
_HELP = (
    "Look at a study while it trains and afterwards, and use its detectors. `snakemake` trains (README.md)."
)
_EXAMPLES = """\
examples:
  tood progress --watch                       the state of every run
  tood show tood_af                           one run
  tood detect photos/ --run tood_af           its detections on images

`tood COMMAND --help` shows the options of a command.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand.

    Args:
        arguments: arguments of the command line; None takes the program's own.

    Returns:
        The exit status: 0; 1 if `doctor` finds that something required is missing, or `detect` an image that
        cannot be read; 2 for a wrong declaration or option, or a file that cannot be read or written; 130
        where the user stopped it, 141 where nobody reads the output to its end, such as `head`: 128 and the
        number of the signal, as of other programs.
    """
    try:
        try:
            return _run(list(sys.argv[1:] if arguments is None else arguments))
        finally:
            if sys.stdout:  # it may be closed
                sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains as it ends
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _run(given: Sequence[str]) -> int:
    own, here = Path(__file__).resolve(), Path("tood/cli.py").resolve()
    if here.is_file() and here != own:  # results would be read and made by another version of the code
        print(
            f"tood: this is the command of {own.parents[1]}, the folder is another clone; activate its "
            "environment, or type `python -m tood`",
            file=sys.stderr,
        )
        return 2
    if given[:2] == ["completion", "--words"]:  # whose words argparse would not leave as they are
        from tood.commands.completion import candidates

        print("\n".join(candidates(given[2:], COMMANDS, lambda name: build_parser([name]).command)))
        return 0
    try:
        parser = build_parser(given)
        options = parser.parse_args(given)
        if options.version:
            print(_version())
            return 0
        if options.command is None:
            parser.print_help()
            return 0
        if options.command not in _NO_CLONE:
            from tood.commands.folder import enter_clone, require_clone  # here, as help needs no study

            require_clone()
            # Of a file of weights no study matters.
            if options.command not in _NO_STUDY and getattr(options, "run", True):
                enter_clone(options)
        return options.run_command(options)
    except BrokenPipeError:
        raise
    except (InputError, OSError) as error:
        print(f"tood: {error}", file=sys.stderr)
        return 2


def build_parser(given: Sequence[str]) -> "_Parser":
    """A parser of the command line that knows the options of the command in it."""
    called = next((argument for argument in given if not argument.startswith("-")), None)
    if called is not None and called not in COMMANDS:
        raise InputError(
            f"{called}: there is no such command; {did_you_mean(called, COMMANDS)}`tood` lists them"
        )
    parser = _Parser(
        prog="tood",
        description=_HELP,
        epilog=_EXAMPLES,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=16),
    )
    parser.given = given
    parser.add_argument("--version", action="store_true", help="print the version, its commit and its folder")
    commands = parser.add_subparsers(
        dest="command", title="commands", metavar="COMMAND", parser_class=_Parser
    )
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text)
        if name == called:
            module = importlib.import_module(f"tood.commands.{_MODULES.get(name, name)}")
            command.description = text
            module.add_options(command)
            command.set_defaults(run_command=module.run)
            command.given = given[given.index(name) + 1 :]
            parser.command = command
    return parser


class _Parser(argparse.ArgumentParser):
    """A parser that says what a mistyped option may be."""

    command: Any = None  # parser of the command, whose options these may be
    given: Sequence[str] = ()  # words of the command line

    def error(self, message: str) -> NoReturn:
        """Print one line with a hint, and end."""
        parser = self.command or self
        known = [name for name in parser._option_string_actions if name.startswith("--")]
        wrong = [word.partition("=")[0] for word in self.given if word.startswith("--") and word != "--"]
        wrong = [word for word in wrong if not any(name.startswith(word) for name in known)]
        if wrong:
            message = f"{wrong[0]}: there is no such option; {did_you_mean(wrong[0], known)}"
        else:
            message += "; "
        self.exit(2, f"{parser.prog}: {message}`{parser.prog} --help` lists the options\n")


def _version() -> str:
    """The version, the commit where it is known, and the folder."""
    from importlib import metadata

    from tood.ledger.provenance import revision

    try:
        version = metadata.version("tood-reproduction")
    except metadata.PackageNotFoundError:
        version = "of a folder that is not installed"
    known = revision()
    changed = "-dirty" if known.get("dirty") else ""
    commit = f", commit {known['commit'][:7]}{changed}" if "commit" in known else ""
    return f"tood {version}{commit}, in {Path(__file__).parents[1]}"


if __name__ == "__main__":
    sys.exit(main())
