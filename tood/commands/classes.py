"""`tood classes`: AP, precision and recall, and confusions by class, of trainings or of COCO results."""

import argparse
import re
from pathlib import Path

from tood.commands.options import add_json, add_study, print_json, require_file, share
from tood.commands.studies import study_header
from tood.ledger.plans import load_study
from tood.runtime.failures import InputError
from tood.runtime.quiet import silent
from tood.runtime.text import aligned


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument(
        "runs", nargs="*", metavar="RUN", help="of a study; default: all with detections here"
    )
    parser.add_argument("--seed", type=int, metavar="K", help="this seed only; default: all of the study")
    parser.add_argument(
        "--detections", type=Path, metavar="FILE", help="COCO results of any program, instead of runs"
    )
    parser.add_argument("--annotations", type=Path, metavar="FILE", help="COCO annotations of these results")
    parser.add_argument(
        "--score",
        type=share,
        default=0.3,
        metavar="S",
        help="least score of detections in the confusion matrix; default: 0.3",
    )
    parser.add_argument(
        "--iou",
        type=share,
        default=0.5,
        metavar="U",
        help="least IoU of a detection and its object in the confusion matrix; default: 0.5",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        help="default: results/STUDY/classes, or `classes` for --detections",
    )
    add_study(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Write tables and figures, and print AP by class."""
    if bool(options.detections) != bool(options.annotations):
        raise InputError("--detections, --annotations: give both")
    if options.detections and (options.runs or options.name or options.seed is not None):
        raise InputError("--detections: is a file instead of runs of a study; omit RUN, --name and --seed")
    if options.detections:
        require_file(options.detections, "--detections")
        require_file(options.annotations, "--annotations")
    plan = None if options.detections else load_study(options.name)
    with silent():
        from tood.report.per_class import Detections, cells, measure_all, of_study, write_classes
        from tood.study.paths import StudyPaths

        if plan is None:
            name = re.sub(r"[^\w.-]+", "_", options.detections.stem)
            sources = [Detections(name, None, options.annotations, options.detections, None)]
            folder = options.output or Path("classes")
        else:
            sources = of_study(plan, options.runs, options.seed)
            folder = options.output or StudyPaths(plan.name).results / "classes"
        by_class = measure_all(sources, options.score, options.iou)
        write_classes(by_class, folder)
    if options.json:
        print_json(by_class.metrics.to_dict("records"))
        return 0
    if plan:
        print(study_header(plan, options.name))
    header, body = cells(by_class.metrics)
    print(aligned([header, *body], right=range(1, len(header))))
    if stale := sorted({source.run for source in sources if source.stale}):
        print(f"stale, as code, settings or data have changed since: {', '.join(stale)}")
    print(f"written to {folder}: tables and figures with their captions")
    return 0
