"""`tood images`: draw the images of a scale and describe them, with a picture of the first."""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

from tood.runtime.files import write_json, write_text
from tood.study.declarations import ExperimentError
from tood.study.options import parse_options
from tood.study.plan import Plan

M = (5, 9, 13, 17, 21)  # of the sweep of m


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument(
        "--config",
        nargs="+",
        default=["scale=mini"],
        metavar="KEY=VALUE",
        help="options of the study, as for the workflow; default: scale=mini",
    )
    parser.add_argument("--output", type=Path, default=Path("docs"), metavar="FOLDER", help="default: docs/")


def run(options: argparse.Namespace) -> int:
    """Write NAME_images.md, NAME_images.json and NAME_images.png."""
    from tood.analysis.data_sheet import contact_sheet, data_sheet
    from tood.data.synthetic import SPLITS, generate
    from tood.report.image_page import image_page

    plan = Plan(parse_options(options.config))
    if plan.drawing is None:
        raise ExperimentError(f"scale {plan.scale.name!r} draws no images; name one that does")
    strides = plan.scale.heads["tood.TOODHead"]["anchor_generator"]["strides"]
    options.output.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as folder:
        root = Path(folder, "data")
        generate(root, plan.drawing)
        sheet = data_sheet(root, strides, M)
        file = options.output / f"{plan.name}_images"
        contact_sheet(root, SPLITS[1], columns=8, rows=4).save(file.with_suffix(".png"))
    write_json(file.with_suffix(".json"), sheet)
    write_text(file.with_suffix(".md"), image_page(sheet, plan.name))
    print(f"written to {file}.md, .json and .png")
    return 0
