"""`tood maps`: where detectors classify and localise one object best, as in Figures 1 and 4."""

import argparse
import contextlib
from pathlib import Path

from tood.commands.detectors import add_detectors, add_device, load, require_detectors
from tood.commands.options import add_study, require_file, require_format
from tood.commands.studies import study_header
from tood.runtime.failures import InputError
from tood.runtime.quiet import silent


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument(
        "--image",
        required=True,
        metavar="FILE",
        help="any image with --box and --label, or one of the study's data by its file_name, id or path",
    )
    parser.add_argument(
        "--object", type=int, metavar="K", help="of the study's image, from 0; default: the largest"
    )
    parser.add_argument("--box", type=_box, metavar="x1,y1,x2,y2", help="the object, in pixels of the file")
    parser.add_argument("--label", metavar="CLASS", help="class of the object")
    parser.add_argument(
        "--figure", type=int, choices=[1, 4], default=1, help="4 has the results alone; default: 1"
    )
    parser.add_argument(
        "--levels",
        choices=["best", "all"],
        default="best",
        help="whose maps are drawn; default: best, of the best-classified anchor",
    )
    parser.add_argument(
        "--colors",
        default="viridis",
        metavar="NAME",
        help="matplotlib's colour map; default: viridis, which can be read in grey; the paper has jet",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("maps.png"),
        metavar="FILE",
        help="PNG, PDF or SVG, as its suffix says; default: maps.png",
    )
    add_detectors(parser, several=True)
    add_device(parser)
    add_study(parser)


def run(options: argparse.Namespace) -> int:
    """Draw the maps, and print where each detector is best."""
    require_format(options)
    if options.box and options.label:
        require_file(options.image, "--image")
    require_detectors(options)
    with silent():
        import matplotlib as mpl

        if options.colors not in mpl.colormaps:
            raise InputError(f"--colors {options.colors}: matplotlib has none of that name; such as jet")
        from tood.analysis.figures.files import save
        from tood.analysis.figures.image_maps import described, labelled, row_of, scene
        from tood.analysis.figures.map_figures import draw_figure1, draw_figure4

        detectors, plan = load(options, options.device)
        shown = scene(options.image, options.box, options.label, options.object, plan, detectors)
        rows = [row_of(detector, shown) for detector in detectors]
    if plan:
        print(study_header(plan, options.name))
    drawn = list(map(labelled, rows))
    if options.figure == 4:
        figure = draw_figure4([drawn])
    else:
        figure = draw_figure1(drawn, options.colors, options.levels)
    save(figure, options.output)
    for row in rows:
        print(described(row))
    print(f"written to {options.output}")
    return 0


def _box(text: str) -> tuple[float, ...]:
    with contextlib.suppress(ValueError):
        if len(box := tuple(map(float, text.split(",")))) == 4:
            return box
    raise argparse.ArgumentTypeError(f"{text} is not four numbers x1,y1,x2,y2")
