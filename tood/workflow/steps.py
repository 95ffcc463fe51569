"""What the rules start, a function for each step: `python workflow/step.py NAME --option value ...`.

The options of a step are the parameters of its function. Text and paths are given as they are, other values
as JSON; a list of paths or names as several words. What needs torch or pandas is imported when a step runs.
"""

import argparse
import functools
import inspect
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import TypeAdapter

from tood.data import coco
from tood.data.conversion import Conversion, convert
from tood.data.manifest import read_manifest
from tood.data.synthetic import DrawingSpec, generate
from tood.data.validation import Split, check_dataset
from tood.ledger.plans import declare_study
from tood.ledger.records import read_record, write_record
from tood.ledger.rehearsal import describe, write_table
from tood.runtime.download import DownloadError, Source, fetch
from tood.runtime.failures import ExitCode, one_message
from tood.runtime.files import write_json
from tood.runtime.progress import Progress
from tood.study.coco import ARCHIVES, load_archives
from tood.study.declarations import ExperimentError
from tood.study.jobs import (
    AnalysisJob,
    Execution,
    Figure1Job,
    ImportJob,
    MeasuringJob,
    RehearsalJob,
    SubmissionJob,
    TrainingJob,
)
from tood.study.paths import RESULTS, RunPaths, StudyPaths
from tood.study.plan import Plan
from tood.study.released import ReleasedFile
from tood.workflow.rehearsing import rehearse_all

Step = Callable[..., int | None]
STEPS: dict[str, Step] = {}


def main(arguments: Sequence[str]) -> int:
    """Run a step.

    Args:
        arguments: its name and its options, as the shell passes them.

    Returns:
        the exit status
    """
    name, *options = arguments or ("",)
    if name not in STEPS:
        sys.exit(f"step.py: there is no step {name!r}; there are {', '.join(STEPS)}")
    given = parser_of(name).parse_args(options)
    print("python workflow/step.py", shlex.join(arguments), file=sys.stderr, flush=True)
    return STEPS[name](**vars(given)) or 0


def parser_of(name: str) -> argparse.ArgumentParser:
    """The parser of a step's options, which are the parameters of its function."""
    parser = argparse.ArgumentParser(prog=name, description=STEPS[name].__doc__)
    for parameter in inspect.signature(STEPS[name]).parameters.values():
        kind, optional = parameter.annotation, parameter.default is not parameter.empty
        words = get_origin(kind) is list and get_args(kind)[0] in (str, Path)
        plain = get_args(kind)[0] if words else kind
        parser.add_argument(
            f"--{parameter.name.replace('_', '-')}",
            type=plain if plain in (str, Path) else TypeAdapter(kind).validate_json,
            nargs="*" if words else None,
            required=not optional,
            default=parameter.default if optional else None,
        )
    return parser


def _step(label: str) -> Callable[[Step], Step]:
    """A function as a step, whose messages begin with the label; what is in braces is of its arguments."""

    def declare(function: Step) -> Step:
        @functools.wraps(function)
        def run(**given: Any) -> int | None:
            with one_message(label.format(**given)):
                return function(**given)

        STEPS[function.__name__] = run
        return run

    return declare


# Data and weights


@_step("generate data")
def generate_data(root: Path, drawing: DrawingSpec) -> None:
    """Draw the generated dataset of a scale."""
    generate(root, drawing)


@_step("data")
def convert_data(conversion: Conversion, sources: str, folder: Path) -> None:
    """Convert a dataset to COCO's layout and the classes that are used, into a folder of the study."""
    with _counted("convert data") as show:
        sentences = convert(conversion, folder, sources, show)
    for sentence in sentences:
        print(f"data: {sentence}")


@_step("data")
def check_data(root: Path, splits: dict[str, Split], sizes: list[list[int]], output: Path) -> None:
    """Check a COCO-layout dataset, every image of it, for these sizes of inputs, and write what it is."""
    with _counted("check data") as show:
        manifest = check_dataset(root, splits.get("train"), splits["val"], sizes=sizes, progress=show)
        for note in manifest["notes"]:
            print(f"data: {note}")
        write_json(output, {"root": str(root), **manifest})


@contextmanager
def _counted(title: str) -> Iterator[Callable[[int, int], None]]:
    """A line of progress, and what shows in it how many images are done, of how many."""
    with Progress(title, total=1) as progress:

        def show(done: int, total: int) -> None:
            progress.total = total
            progress.advance(done - progress.done)

        yield show


@_step("download")
def download(root: Path, archives: list[str], declaration: Path = ARCHIVES) -> None:
    """Fetch archives of COCO 2017 into a folder, and unpack them; what is there already stays."""
    declared = load_archives(declaration)
    coco.download(root, [declared[name] for name in archives])


@_step("weights")
def fetch_weights(name: str, output: Path) -> None:
    """Fetch the ImageNet weights of a backbone, such as resnet50, from where mmdet takes them."""
    from tood.engine.weights import address

    url, digest = address(name)
    try:
        fetch(Source(url, sha256=digest), output)
    except (DownloadError, OSError) as error:
        sys.exit(
            f"weights: {Path(url).name} cannot be fetched ({error}). Put the file at {output} by hand, "
            "or start from random weights, which the tables will say: --config weights=random name=NAME"
        )


@_step("weights")
def fetch_released(released: ReleasedFile, output: Path) -> None:
    """Fetch a file of released weights."""
    try:
        fetch(released.source(), output)
    except (DownloadError, ExperimentError, OSError) as error:
        sys.exit(f"weights: {error}. Put the file at {output} by hand, or name other runs: runs=RUN,RUN")


@_step("import {job.run}")
def import_released(job: ImportJob, released: ReleasedFile, folder: Path, output: Path) -> None:
    """Write released weights as the model of a run, and all else into the run's folder."""
    from tood.evaluation.importing import run_import

    run_import(job, released, folder, output)


# Trained runs


def _keep(job: TrainingJob | MeasuringJob, folder: Path, record: Path) -> None:
    """Write the record of a training from the folder of its run, and declare its study, if it is of one."""
    write_record(RunPaths(folder), job.manifest, record)
    if record.is_relative_to(RESULTS):
        declare_study(record.parents[2].relative_to(RESULTS).as_posix())


@_step("train {job.run}")
def train(job: TrainingJob, execution: Execution, folder: Path, record: Path, output: Path) -> int:
    """Train one run with one seed; the exit status is a `tood.runtime.failures.ExitCode`.

    All files but the weights go into the run's folder. The record is written where the training diverges.
    """
    from tood.engine.job import run_training

    def at_end(ended: ExitCode) -> None:
        if ended == ExitCode.DIVERGED:
            _keep(job, folder, record)

    return run_training(job, execution, folder, output, at_end)


@_step("evaluate")
def evaluate(job: MeasuringJob, execution: Execution, folder: Path, record: Path) -> None:
    """Detect on the validation images, measure COCO AP, and write the run's record."""
    from tood.evaluation.evaluate import evaluate as measure

    measure(job, execution, RunPaths(folder))
    _keep(job, folder, record)


@_step("evaluate")
def evaluate_and_analyse(job: AnalysisJob, execution: Execution, folder: Path, record: Path) -> None:
    """Evaluate, and in the same pass measure how well classification and localisation agree."""
    from tood.analysis.table6.measurement import analyse

    analyse(job, execution, RunPaths(folder))
    _keep(job, folder, record)


@_step("submission")
def submission(job: SubmissionJob, execution: Execution, output: Path) -> None:
    """Detect on images without annotations and write a submission for COCO's server, a zip."""
    from tood.evaluation.submitted_run import write_submission

    print(f"{output}: {write_submission(job, execution, output)} detections")


# A rehearsal


@_step("rehearse")
def rehearse(study: dict[str, Any], threads: int, analysed: list[str], table: Path) -> int:
    """Try every run of a study for a few iterations, and print what fits, how long it takes, what to type."""
    plan, program = Plan(study), [sys.executable, sys.argv[0], "rehearse_run"]
    rows = rehearse_all(plan, threads, program, analysed, lambda line: print(line, flush=True))
    write_table(table, rows)
    print(f"\n{describe(plan, rows)}\n\n{table}; files of each run: {StudyPaths(plan.name).rehearsal}")
    return int(any(row.measured.failed for row in rows))


@_step("rehearse {job.training.run}")
def rehearse_run(job: RehearsalJob, execution: Execution, digest: str, output: Path) -> int:
    """Try one run of a study for a few iterations; the exit status is 1 where it failed."""
    from tood.analysis.rehearsal import rehearse as measure

    return int(bool(measure(job, execution, output, digest).failed))


# What is shown


@_step("tables")
def tables(study: dict[str, Any], complexity: Path) -> None:
    """Collect what the runs measured into metrics.csv and render every table; nothing has to be complete."""
    from tood.report.metrics import write_results

    plan = Plan(study)
    write_results(plan, complexity)
    declare_study(plan.name)


@_step("figures 1 and 4")
def figure1(job: Figure1Job, execution: Execution, output: Path) -> None:
    """Draw results, score maps and IoU maps of detectors on objects that a rule chooses, into a folder."""
    from tood.analysis.figures.figure1 import figures

    figures(job, execution, output)


@_step("views")
def views(runs: dict[str, list[Path]], manifest: Path, annotations: str, output: Path) -> None:
    """Draw the views of Table 6: best anchors, score and IoU, AP by IoU, kinds of boxes."""
    from tood.analysis.figures.views import draw_views

    files = {name: [RunPaths(folder) for folder in folders] for name, folders in runs.items()}
    draw_views(files, Path(read_manifest(manifest)["root"]) / annotations, output)


@_step("sweeps")
def sweeps(table_m: Path, table4: Path, metrics: Path, output: Path) -> None:
    """Draw AP against m, and AP over alpha and beta, on common seeds, from CSV files, into a folder."""
    import pandas as pd

    from tood.analysis.figures.sweeps import draw_sweeps
    from tood.report.shared_seeds import with_shared_seeds

    values = pd.read_csv(metrics)
    of_m, of_pairs = (with_shared_seeds(pd.read_csv(table), values) for table in (table_m, table4))
    draw_sweeps(of_m, of_pairs, output)


@_step("forest")
def forest(claims: Path, output: Path) -> None:
    """Draw the claims with their intervals from their CSV, as PNG and PDF with a caption."""
    from tood.report.forest import draw_forest

    draw_forest(claims, output.with_suffix(""))


@_step("positives")
def positives(records: dict[str, list[Path]], output: Path) -> None:
    """Draw positives per object, and their IoU, over training, from records by scheme, with a caption."""
    from tood.analysis.figures.positive_curves import draw_positive_curves

    epochs = {
        scheme: [record.epochs for path in paths if (record := read_record(path))]
        for scheme, paths in records.items()
    }
    draw_positive_curves(epochs, output.with_suffix(""))


@_step("report")
def report(study: dict[str, Any], figures: list[Path], absent: dict[str, str]) -> None:
    """Write one page with everything that a study shows, and why a figure is absent."""
    from tood.report.page import write_report

    write_report(Plan(study), figures, absent)


@_step("readme")
def readme(readme: Path, kept: Path, mini: Path, cells: Path, results: Path) -> None:
    """Rewrite the results in README.md and docs/ from the files under results/."""
    from tood.report.front_page import headlines_part, results_part, rewrite
    from tood.report.mini_page import cells_part, mini_part

    rewrite(readme, headlines_part(results))
    rewrite(kept, results_part(results))
    rewrite(mini, mini_part(results))
    rewrite(cells, cells_part(results))
