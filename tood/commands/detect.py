"""`tood detect`: objects on any images, drawn and as COCO results."""

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

from tood.commands.detectors import add_detectors, add_device, load, require_detectors
from tood.commands.options import add_study, share
from tood.commands.studies import study_header
from tood.evaluation.images import find_images
from tood.runtime.failures import InputError
from tood.runtime.quiet import silent


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE", help="files, folders or patterns such as '*.jpg'"
    )
    parser.add_argument(
        "--score", type=share, default=0.3, metavar="S", help="least score that is drawn; default: 0.3"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("detections"), metavar="FOLDER", help="default: detections"
    )
    add_detectors(parser, several=False)
    add_device(parser)
    add_study(parser)


def run(options: argparse.Namespace) -> int:
    """Draw and write the detections; 1 where an image cannot be read."""
    paths = find_images(options.images)
    _require_own_folder(options.output, paths)
    require_detectors(options)
    try:
        options.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output {options.output}: no such folder can be made ({error})") from error
    with silent():
        from tood.analysis.detections import detect_images, missing_glyphs, nothing_drawn

        (detector,), plan = load(options, options.device)
    if plan:
        print(study_header(plan, options.name, options.run))
    done = detect_images(detector, paths, options.output, options.score)
    rate = f", {done.images / done.seconds:.2f} images/s on {detector.device}" if done.images else ""
    print(
        f"{done.images} of {len(paths)} images{rate} (network and NMS, one image at a time); "
        f"{done.boxes} detections with a score of at least {options.score:g} drawn"
    )
    if done.empty:
        print(nothing_drawn(done, options.score))
    print(f"written to {options.output}: drawings, detections.json (COCO results), images.json")
    if lacking := missing_glyphs(detector.classes) if done.boxes else "":
        print(
            f"tood: the font of the drawings lacks {', '.join(lacking)}; boxes stand there", file=sys.stderr
        )
    for problem in done.failed:
        print(f"tood: {problem}", file=sys.stderr)
    return int(bool(done.failed))


def _require_own_folder(output: Path, images: Iterable[Path]) -> None:
    """That no drawing replaces an image, and no result a file of the user's."""
    if inside := next((path for path in images if path.resolve().parent == output.resolve()), None):
        raise InputError(
            f"--output {output}: {inside} is in this folder, where a drawing could replace it; name another "
            "folder, such as detections"
        )
    there = [name for name in ("detections.json", "images.json") if (output / name).exists()]
    if len(there) == 1:  # this command writes both
        raise InputError(f"--output {output}: {there[0]} there is not of this command; name another folder")
