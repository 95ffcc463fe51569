"""`tood assign`: the positives of several schemes on one image."""

import argparse
from pathlib import Path

from tood.commands.options import add_config, require_format
from tood.commands.studies import study_header
from tood.runtime.quiet import silent
from tood.study.options import parse_options
from tood.study.plan import Plan


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument(
        "--image", required=True, help="file_name, id or path of an image in the study's data"
    )
    parser.add_argument(
        "--schemes",
        required=True,
        metavar="RUN,RUN",
        help="runs whose schemes are drawn, such as atss_af,tal",
    )
    add_config(parser)
    parser.add_argument("--output", type=Path, default=Path("assignment.png"), metavar="FILE")


def run(options: argparse.Namespace) -> int:
    """Draw the positives, and print how many they are."""
    require_format(options)
    plan = Plan({**parse_options(options.config), "runs": options.schemes})
    with silent():
        from tood.analysis.figures.assignment import assign, draw
        from tood.analysis.figures.files import save

        assignments = [assign(plan, run.id, options.image, plan.seeds[0]) for run in plan.runs]
    save(draw(assignments), options.output)
    print(study_header(plan, plan.name))
    for each in assignments:
        quality = f"mean IoU {each.iou:.3f}" if each.trained else "untrained"
        print(f"{each.scheme:20} {each.per_object:6.2f} positives per object, {quality}")
    print(f"written to {options.output}")
    return 0
