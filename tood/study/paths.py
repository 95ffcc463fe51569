"""Where the repository keeps what, and where a study puts its files.

The paths of a study are relative to the folder that the workflow is called in, as Snakemake's own are. Those
of a run may hold wildcards: `StudyPaths("smoke").run("{run}", "{seed}").model` is a pattern for Snakemake.
"""

from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PACKAGE = REPOSITORY / "tood"
EXPERIMENTS = REPOSITORY / "experiments"
CONFIGS = EXPERIMENTS / "configs"
PADDING = EXPERIMENTS / "padding.csv"  # of the training images of every run (`tood.analysis.padding`)

WORK = Path("work")  # what can be made again: checkpoints, detections, logs
RESULTS = Path("results")  # what is kept: metrics, tables, figures
SWEEPS = "sweeps"  # begins the names of studies that vary another one, whose folders are together below it
COMPLEXITY = RESULTS / "paper" / "complexity.csv"  # of the paper-sized models, hence the same for all studies

# What is measured on a trained run.
AP = "ap.json"
ALIGNMENT = "alignment.json"
BEST_ANCHORS = "best_anchors.json"
METRICS = "metrics.csv"  # all measured values of a study


class _Below:
    """A file or folder below another one, which is an attribute."""

    def __init__(self, folder: str, name: str) -> None:
        self.folder, self.name = folder, name

    def __get__(self, paths: object, owner: type) -> Path:
        return getattr(paths, self.folder) / self.name


@dataclass(frozen=True)
class RunPaths:
    """The files of one run and seed."""

    folder: Path  # holds them all

    state = _Below("folder", "state.json")  # what the training does now (`tood.runtime.run_state`)
    provenance = _Below("folder", "provenance.json")  # what it was made with (`tood.ledger.provenance`)
    losses = _Below("folder", "losses.jsonl")  # and positives, as JSON lines
    event_files = _Below("folder", "tensorboard")
    checkpoints = _Below("folder", "checkpoints")
    model = _Below("folder", "model.pth")  # the trained weights
    detections = _Below("folder", "detections.json")  # on the validation images, a list of COCO results
    evaluated_images = _Below("folder", "evaluated_images.json")  # ids, also of those without any detection
    ap = _Below("folder", AP)
    alignment = _Below("folder", ALIGNMENT)  # the columns of Table 6
    alignment_variants = _Below("folder", "alignment_variants.json")  # Table 6 under other definitions
    best_anchors = _Below("folder", BEST_ANCHORS)  # of each object

    @property
    def seed(self) -> int:
        """Its seed, which the folder is named after."""
        return int(self.folder.name.removeprefix("seed"))

    def submission(self, images: str, algorithm: str) -> Path:
        """Detections for COCO's server, under the name that it expects.

        Args:
            images: name of the set, such as "test-dev2017".
            algorithm: name of the method, as the server shows it.
        """
        return self.folder / f"detections_{images}_{algorithm}_results.zip"


@dataclass(frozen=True)
class StudyPaths:
    """The folders and files of one study."""

    name: str  # as `tood.study.plan.Plan.name`

    @property
    def work(self) -> Path:
        """Folder of what can be made again."""
        return WORK / self.name

    options = _Below("work", "study.json")  # that the study was last called with
    data = _Below("work", "data")  # converted to COCO's layout, where the user's have another one
    manifest = _Below("work", "manifest.json")  # what the checked dataset holds
    logs = _Below("work", "logs")  # one per job
    runs = _Below("work", "runs")
    rehearsal = _Below("work", "rehearsal")  # what was tried before; nothing of it counts as the study's

    @property
    def results(self) -> Path:
        """Folder of what is kept."""
        return RESULTS / self.name

    declaration = _Below("results", "study.json")  # options without those of a call (`tood.ledger.plans`)
    records = _Below("results", "runs")
    metrics = _Below("results", METRICS)  # every measured value
    readings = _Below("results", "table6_readings.csv")  # Table 6 under other definitions
    tables = _Below("results", "tables")
    figures = _Below("results", "figures")
    report = _Below("results", "report.html")  # every table and figure on one page

    def run(self, run_id: str, seed: int | str) -> RunPaths:
        """The files of one run and seed."""
        return RunPaths(self.runs / run_id / f"seed{seed}")

    def record(self, run_id: str, seed: int | str) -> Path:
        """What is kept of one run and seed (`tood.ledger.records`)."""
        return self.records / run_id / f"seed{seed}.json"


def dark_picture(picture: Path) -> Path:
    """The variant of a figure for dark pages, beside the figure."""
    return picture.with_name(f"{picture.stem}_dark{picture.suffix}")
