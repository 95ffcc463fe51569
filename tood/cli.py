"""The `tood` command: lists runs, shows how a study is doing and what detectors see, checks this machine."""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from tood.commands import looking
from tood.runtime.failures import InputError


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
    options = _parser().parse_args(arguments)
    try:
        return options.action(options)
    except InputError as error:
        print(f"tood: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tood", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    runs = commands.add_parser("runs", help="list every run with its state and its rows in tables")
    runs.set_defaults(action=_runs)

    plan = commands.add_parser("plan", help="estimate GPU-hours and disk of runs before they are trained")
    plan.add_argument(
        "--tables", metavar="1,3,6", help="runs of these tables; default: every run of the paper"
    )
    plan.add_argument("--scale", default="paper", metavar="NAME", help="default: paper")
    plan.add_argument(
        "--gpu", metavar="NAME", help="such as A100; default: what trainings here ran on, or V100"
    )
    plan.add_argument(
        "--gpus", type=_positive, default=1, metavar="K", help="GPUs that train at the same time; default: 1"
    )
    plan.set_defaults(action=_plan)

    doctor = commands.add_parser("doctor", help="check the environment, the data and this machine")
    doctor.add_argument(
        "--data-root", type=Path, metavar="PATH", help="folder of a dataset in the COCO layout"
    )
    doctor.add_argument("--scale", metavar="NAME", help="check the data of this scale alone, and require it")
    doctor.set_defaults(action=_doctor)

    complexity = commands.add_parser("complexity", help="count parameters and FLOPs of the paper's models")
    complexity.add_argument("--convention", default="paper", choices=["paper", "modern"])
    complexity.add_argument("--output", type=Path, metavar="FILE", help="CSV; default: results/paper/")
    complexity.set_defaults(action=_complexity)

    padding = commands.add_parser("padding", help="measure the padding of training images at COCO's sizes")
    padding.set_defaults(action=_padding)

    assign = commands.add_parser("assign", help="draw the positives of several schemes on one image")
    assign.add_argument(
        "--image", required=True, help="file_name, id or path of an image in the study's data"
    )
    assign.add_argument(
        "--schemes",
        required=True,
        metavar="RUN,RUN",
        help="runs whose schemes are drawn, such as atss_af,tal",
    )
    assign.add_argument(
        "--config", nargs="*", default=[], metavar="KEY=VALUE", help="options as for the workflow"
    )
    assign.add_argument("--output", type=Path, default=Path("assignment.png"), metavar="FILE")
    assign.set_defaults(action=_assign)

    maps, detect = looking.add_maps(commands), looking.add_detect(commands)

    submission = commands.add_parser(
        "submission", help="check a file for COCO's server against the list of its images"
    )
    submission.add_argument("file", type=Path, metavar="FILE", help="detections_SET_ALGORITHM_results.zip")
    submission.add_argument(
        "--images", type=Path, required=True, metavar="FILE", help="such as image_info_test-dev2017.json"
    )
    submission.set_defaults(action=_submission)

    scores = commands.add_parser(
        "scores", help="print the entry for experiments/server_scores.yaml from the server's answer"
    )
    scores.add_argument("file", type=Path, metavar="FILE", help="stdout.txt of COCO's server")
    scores.add_argument("--run", required=True, metavar="RUN", help="whose detections were submitted")
    scores.add_argument("--source", required=True, metavar="TEXT", help="which server, when, which file")
    scores.add_argument("--name", default="paper", metavar="STUDY", help="study of the run; default: paper")
    scores.add_argument("--seed", type=int, default=0, metavar="K", help="seed of the run; default: 0")
    scores.set_defaults(action=_scores)

    take = commands.add_parser("import", help="take a file of released weights as the model of a run")
    take.add_argument("file", type=Path, metavar="FILE", help="of mmdet or of the authors, in torch's format")
    take.add_argument(
        "--run", required=True, metavar="RUN", help="id such as tood_af; `tood runs` lists them"
    )
    take.add_argument("--near", action="store_true", help="also if it is declared as of another recipe")
    take.add_argument(
        "--config",
        nargs="*",
        default=[],
        metavar="KEY=VALUE",
        help="options of the study, as for the workflow",
    )
    take.set_defaults(action=_import)

    show = commands.add_parser("show", help="show a run's state, results, provenance and files")
    show.add_argument("run", metavar="RUN", help="id such as tood_af; `tood runs` lists them")
    show.add_argument("--seed", type=int, metavar="K", help="show this seed only")
    show.set_defaults(action=_show)

    progress = commands.add_parser(
        "progress", help="show the state of all runs of a study, also while they train"
    )
    progress.set_defaults(action=_progress)

    report = commands.add_parser("report", help="render tables and report.html of a study from what is there")
    report.set_defaults(action=_report)

    for command in (show, progress, maps, detect, report):
        command.add_argument(
            "--name", metavar="STUDY", help="name of the study; default: the study that was called last"
        )
    how = progress.add_mutually_exclusive_group()
    how.add_argument("--watch", action="store_true", help="repeat until every state is final")
    how.add_argument("--json", action="store_true", help="print JSON")

    for command in (runs, plan, doctor, show):
        command.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no whole number above 0")
    return int(text)


def _runs(options: argparse.Namespace) -> int:
    from tood.study.declarations import list_runs

    print(list_runs(as_json=options.json))
    return 0


def _plan(options: argparse.Namespace) -> int:
    from tood.commands.estimate import describe, estimate
    from tood.runtime.files import to_json

    found = estimate(options.scale, options.tables, options.gpu, options.gpus)
    print(to_json(found, indent=2, ensure_ascii=False) if options.json else describe(found))
    return 0


def _show(options: argparse.Namespace) -> int:
    from tood.commands.dashboard import show_run

    print(show_run(options.run, options.name, options.seed, options.json))
    return 0


def _progress(options: argparse.Namespace) -> int:
    from tood.commands.dashboard import show_progress

    show_progress(options.name, options.watch, options.json)
    return 0


def _complexity(options: argparse.Namespace) -> int:
    import csv
    import warnings

    from tood.runtime.files import atomic_path
    from tood.runtime.text import aligned

    warnings.simplefilter("ignore")  # warnings of the libraries about themselves
    from tood.analysis.complexity import Complexity, of_runs

    default = "complexity.csv" if options.convention == "paper" else f"complexity_{options.convention}.csv"
    output = options.output or Path("results/paper") / default
    header = ("run", *Complexity._fields)
    rows = [(run, *(f"{value:.6f}" for value in counts)) for run, counts in of_runs(options.convention)]
    with atomic_path(output) as temporary, temporary.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    print(aligned([header, *rows], right=range(1, len(header))))
    print(f"written to {output}")
    return 0


def _padding(options: argparse.Namespace) -> int:
    from tood.analysis.padding import write_padding
    from tood.study.paths import PADDING

    print(write_padding().to_string(index=False))
    print(f"written to {PADDING}")
    return 0


def _assign(options: argparse.Namespace) -> int:
    from tood.study.options import parse_options
    from tood.study.plan import Plan

    looking.require_format(options.output)
    plan = Plan({**parse_options(options.config), "runs": options.schemes})
    looking.quiet()
    from tood.analysis.figures.assignment import assign, draw
    from tood.analysis.figures.files import save

    with looking.silent():
        found = [assign(plan, run.id, options.image, plan.seeds[0]) for run in plan.runs]
    save(draw(found), options.output)
    for one in found:
        quality = f"mean IoU {one.iou:.3f}" if one.trained else "untrained"
        print(f"{one.scheme:20} {one.per_object:6.2f} positives per object, {quality}")
    print(f"written to {options.output}")
    return 0


def _report(options: argparse.Namespace) -> int:
    from tood.ledger.status import load_study
    from tood.study.declarations import load_tables
    from tood.study.paths import StudyPaths
    from tood.workflow.call import render_what_is_there

    plan = load_study(options.name)
    if not render_what_is_there(plan, load_tables(runs=plan.all_runs)):
        raise InputError(f"report: no training of {plan.name} ever started here; there is nothing to show")
    print(f"written to {StudyPaths(plan.name).report}")
    return 0


def _submission(options: argparse.Namespace) -> int:
    from tood.evaluation.submission import SubmissionError, check

    try:
        print(check(options.file, options.images))
    except SubmissionError as error:
        print(f"tood: {error}", file=sys.stderr)
        return 2
    return 0


def _scores(options: argparse.Namespace) -> int:
    from tood.ledger.server_scores import entry
    from tood.study.declarations import ExperimentError, load_runs

    try:
        text = options.file.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise ExperimentError(f"{options.file}: cannot be read: {error.strerror}") from error
    try:
        print(entry(text, options.run, options.name, options.seed, options.source, load_runs()))
    except ExperimentError as error:
        raise ExperimentError(f"{options.file}: {error}") from None
    return 0


def _import(options: argparse.Namespace) -> int:
    import warnings

    from tood.study.options import parse_options

    given = parse_options(options.config)
    warnings.simplefilter("ignore")  # warnings of the libraries about themselves
    from tood.evaluation.importing import import_file

    print(import_file(options.file, options.run, given, options.near))
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from dataclasses import asdict

    from tood.commands import doctor
    from tood.runtime.files import to_json

    findings = doctor.examine(options.data_root, options.scale)
    if options.json:
        print(to_json([asdict(finding) for finding in findings], indent=2, ensure_ascii=False))
    else:
        doctor.show(findings)
    return int(doctor.lacks_required(findings))


if __name__ == "__main__":
    sys.exit(main())
