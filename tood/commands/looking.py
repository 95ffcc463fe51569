"""The commands `tood maps` and `tood detect`: their options, and what they do.

Little is imported before a command runs, as every call of `tood` reads this.
"""

import argparse
import contextlib
import io
import logging
import sys
import warnings
from pathlib import Path
from typing import Any

FORMATS = (".png", ".pdf", ".svg")


def add_maps(commands: Any) -> argparse.ArgumentParser:
    """Add `maps` to the subcommands, and return its parser."""
    maps = commands.add_parser(
        "maps", help="draw where detectors classify and localise one object best, as in Figures 1 and 4"
    )
    maps.add_argument(
        "--image",
        required=True,
        metavar="FILE",
        help="any image with --box and --label, or one of the study's data by its file_name, id or path",
    )
    maps.add_argument(
        "--object", type=int, metavar="K", help="of the study's image, from 0; default: the largest"
    )
    maps.add_argument("--box", type=_box, metavar="x1,y1,x2,y2", help="the object, in pixels of the file")
    maps.add_argument("--label", metavar="CLASS", help="class of the object")
    maps.add_argument(
        "--figure", type=int, choices=[1, 4], default=1, help="4 has the results alone; default: 1"
    )
    maps.add_argument(
        "--levels",
        choices=["best", "all"],
        default="best",
        help="whose maps are drawn; default: best, of the best-classified anchor",
    )
    maps.add_argument(
        "--colors",
        default="jet",
        metavar="NAME",
        help="matplotlib's colour map; default: jet, as in the paper; viridis is perceptually uniform",
    )
    maps.add_argument(
        "--output",
        type=Path,
        default=Path("maps.png"),
        metavar="FILE",
        help="PNG, PDF or SVG, as its suffix says; default: maps.png",
    )
    maps.set_defaults(action=_maps)
    _add_detectors(maps, several=True)
    return maps


def add_detect(commands: Any) -> argparse.ArgumentParser:
    """Add `detect` to the subcommands, and return its parser."""
    detect = commands.add_parser("detect", help="detect objects on any images")
    detect.add_argument(
        "images", nargs="+", metavar="IMAGE", help="files, folders or patterns such as '*.jpg'"
    )
    detect.add_argument(
        "--score", type=_score, default=0.3, metavar="S", help="least score that is drawn; default: 0.3"
    )
    detect.add_argument(
        "--output", type=Path, default=Path("detections"), metavar="FOLDER", help="default: detections"
    )
    detect.set_defaults(action=_detect)
    _add_detectors(detect, several=False)
    return detect


def _add_detectors(command: argparse.ArgumentParser, several: bool) -> None:
    """Options that name detectors."""
    action, more = ("append", "; may be repeated") if several else ("store", "")
    of = command if several else command.add_mutually_exclusive_group(required=True)
    of.add_argument("--run", action=action, metavar="RUN", help=f"of a study, such as tood_af{more}")
    of.add_argument(
        "--checkpoint",
        action=action,
        type=Path,
        metavar="FILE",
        help=f"weights of this suite, of the authors or of mmdet{more}",
    )
    command.add_argument(
        "--config",
        action=action,
        metavar="CFG",
        help="of FILE, where it does not say it: id of a run, or a configuration file of mmdet",
    )
    command.add_argument("--seed", type=int, metavar="K", help="of the run; default: the study's first")
    command.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])


def _score(text: str) -> float:
    score = float(text)
    if not 0 <= score <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 to 1")
    return score


def _box(text: str) -> tuple[float, ...]:
    try:
        box = tuple(map(float, text.split(",")))
    except ValueError:
        box = ()
    if len(box) != 4:
        raise argparse.ArgumentTypeError(f"{text} is not four numbers x1,y1,x2,y2")
    return box


def _maps(options: argparse.Namespace) -> int:
    from tood.study.declarations import ExperimentError  # needs pydantic, without which `tood doctor` works

    require_format(options.output)
    quiet()
    import matplotlib as mpl

    if options.colors not in mpl.colormaps:
        raise ExperimentError(f"--colors {options.colors}: matplotlib has none of that name; such as viridis")
    with silent():
        from tood.analysis.figures.files import save
        from tood.analysis.figures.image_maps import described, row_of, scene
        from tood.analysis.figures.map_figures import draw_figure1, draw_figure4
        from tood.evaluation.detector import load_detectors

        detectors, plan = load_detectors(
            runs=options.run or [],
            checkpoints=options.checkpoint or [],
            configs=options.config or [],
            study=options.name,
            seed=options.seed,
            device=options.device,
        )
        shown = scene(options.image, options.box, options.label, options.object, plan, detectors)
        rows = [row_of(detector, shown) for detector in detectors]
    drawn = (rows, options.colors, options.levels)
    figure = draw_figure4([rows]) if options.figure == 4 else draw_figure1(*drawn)
    save(figure, options.output)
    for row in rows:
        print(described(row))
    print(f"written to {options.output}")
    return 0


def _detect(options: argparse.Namespace) -> int:
    from tood.study.declarations import ExperimentError

    try:
        options.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExperimentError(f"--output {options.output}: no such folder can be made ({error})") from error
    quiet()
    with silent():
        from tood.analysis.detections import detect_images, missing_glyphs
        from tood.evaluation.detector import load_detectors
        from tood.evaluation.images import find_images

        paths = find_images(options.images)
        (detector,), _ = load_detectors(
            runs=[options.run] if options.run else [],
            checkpoints=[options.checkpoint] if options.checkpoint else [],
            configs=[options.config] if options.config else [],
            study=options.name,
            seed=options.seed,
            device=options.device,
        )
    done = detect_images(detector, paths, options.output, options.score)
    rate = f", {done.images / done.seconds:.2f} images/s on {detector.device}" if done.images else ""
    print(
        f"{done.images} of {len(paths)} images{rate} (network and NMS, one image at a time); "
        f"{done.boxes} detections with a score of at least {options.score:g} drawn"
    )
    print(f"written to {options.output}: drawings, detections.json (COCO results), images.json")
    if lacking := missing_glyphs(detector.classes) if done.boxes else "":
        print(
            f"tood: the font of the drawings lacks {', '.join(lacking)}; boxes stand there", file=sys.stderr
        )
    for problem in done.failed:
        print(f"tood: {problem}", file=sys.stderr)
    return int(bool(done.failed))


def require_format(output: Path) -> None:
    """That a figure can be written in the format of the file's suffix.

    Raises:
        ExperimentError: it cannot.
    """
    from tood.study.declarations import ExperimentError

    if output.suffix not in FORMATS:
        raise ExperimentError(f"--output {output}: must end in {', '.join(FORMATS[:-1])} or {FORMATS[-1]}")


def quiet() -> None:
    """Leave out what libraries say of themselves."""
    logging.disable(logging.INFO)  # mmengine lists how each single parameter was initialised
    warnings.simplefilter("ignore")


def silent() -> contextlib.redirect_stdout:
    """Leave out what libraries print."""
    return contextlib.redirect_stdout(io.StringIO())  # mmdet and pycocotools print what they read
