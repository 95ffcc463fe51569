"""`tood export`: a detector as ONNX, or as a program of `torch.export`."""

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path

from tood.commands.detectors import add_detectors, load, require_detectors
from tood.commands.options import add_study
from tood.commands.studies import study_header
from tood.runtime.failures import InputError
from tood.runtime.quiet import silent

FORMATS = (".onnx", ".pt2")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="ends in .onnx, or in .pt2 for torch.export; default: NAME.onnx",
    )
    parser.add_argument(
        "--nms", action="store_true", help="put the selection of detections into the file too; ONNX only"
    )
    parser.add_argument("--half", action="store_true", help="weights and maps in float16")
    add_detectors(parser, several=False)
    add_study(parser)


def run(options: argparse.Namespace) -> int:
    """Write the file, and compare its results with the detector's where the machine has what runs it."""
    suffix = options.output.suffix if options.output else FORMATS[0]
    if suffix not in FORMATS:
        raise InputError(f"--output {options.output}: must end in {' or '.join(FORMATS)}")
    if options.nms and suffix != FORMATS[0]:
        raise InputError(f"--nms: only with ONNX; --output {options.output} must end in {FORMATS[0]}")
    require_detectors(options)
    if options.nms:
        print("with --nms writing takes a minute or more", file=sys.stderr, flush=True)
    with silent():
        from tood.evaluation.exporting import difference, export

        (detector,), plan = load(options, device="cpu")
        path = options.output or Path(f"{detector.name}{suffix}")
        graph = export(detector, path, options.nms, options.half)
    if plan:
        print(study_header(plan, options.name, options.run))
    size = path.stat().st_size / 1e6
    print(f"written to {path} ({size:.1f} MB); {path.with_suffix('.json').name} says how to use it")
    if options.nms:
        print("not compared with the detector: equal scores and rounding may change which boxes NMS keeps")
    elif suffix == FORMATS[0] and find_spec("onnxruntime") is None:
        print("not compared with the detector, as onnxruntime is not installed")
    else:
        with silent():
            deviation = difference(path, graph, detector.model.data_preprocessor.pad_size_divisor)
        print(
            "compared with the detector on random images of three sizes: scores differ by "
            f"{deviation.score:.1g}, boxes by {deviation.box:.1g} pixels at most"
        )
    return 0
