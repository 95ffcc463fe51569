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


@dataclass(frozen=True)
class RunPaths:
    """The files of one run and seed.

    Args:
        folder: holds them all.
    """

    folder: Path

    @property
    def state(self) -> Path:
        """What the training does at the moment (`tood.runtime.run_state`)."""
        return self.folder / "state.json"

    @property
    def provenance(self) -> Path:
        """What the training was made with (`tood.ledger.provenance`)."""
        return self.folder / "provenance.json"

    @property
    def losses(self) -> Path:
        """Losses and positives of the training, as JSON lines."""
        return self.folder / "losses.jsonl"

    @property
    def event_files(self) -> Path:
        """Folder of TensorBoard's event files."""
        return self.folder / "tensorboard"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints (`tood.engine.checkpoint`)."""
        return self.folder / "checkpoints"

    @property
    def model(self) -> Path:
        """The trained weights."""
        return self.folder / "model.pth"

    @property
    def detections(self) -> Path:
        """Detections on the validation images, a list in COCO's format for results."""
        return self.folder / "detections.json"

    @property
    def evaluated_images(self) -> Path:
        """Ids of the images that the detections are on, also of those without any."""
        return self.folder / "evaluated_images.json"

    @property
    def ap(self) -> Path:
        """COCO AP."""
        return self.folder / AP

    def submission(self, images: str, algorithm: str) -> Path:
        """Detections for COCO's server, under the name that it expects.

        Args:
            images: name of the set, such as "test-dev2017".
            algorithm: name of the method, as the server shows it.
        """
        return self.folder / f"detections_{images}_{algorithm}_results.zip"

    @property
    def alignment(self) -> Path:
        """The columns of Table 6."""
        return self.folder / ALIGNMENT

    @property
    def best_anchors(self) -> Path:
        """Where each object is classified best and localised best (`tood.analysis.table6.best_anchors`)."""
        return self.folder / BEST_ANCHORS

    @property
    def alignment_variants(self) -> Path:
        """Table 6 under other readings of its definitions."""
        return self.folder / "alignment_variants.json"


@dataclass(frozen=True)
class StudyPaths:
    """The folders and files of one study.

    Args:
        name: of the study, as `tood.study.plan.Plan.name`.
    """

    name: str

    @property
    def work(self) -> Path:
        """Folder of what can be made again."""
        return WORK / self.name

    @property
    def results(self) -> Path:
        """Folder of what is kept."""
        return RESULTS / self.name

    @property
    def options(self) -> Path:
        """The options that the study was last called with."""
        return self.work / "study.json"

    @property
    def manifest(self) -> Path:
        """What the checked dataset holds."""
        return self.work / "manifest.json"

    @property
    def logs(self) -> Path:
        """Folder of one log per job."""
        return self.work / "logs"

    @property
    def runs(self) -> Path:
        """Folder of all runs."""
        return self.work / "runs"

    @property
    def rehearsal(self) -> Path:
        """Folder of what was tried before the study, of which nothing counts as the study's own."""
        return self.work / "rehearsal"

    def run(self, run_id: str, seed: int | str) -> RunPaths:
        """The files of one run and seed."""
        return RunPaths(self.runs / run_id / f"seed{seed}")

    @property
    def records(self) -> Path:
        """Folder of all records."""
        return self.results / "runs"

    def record(self, run_id: str, seed: int | str) -> Path:
        """What is kept of one run and seed (`tood.ledger.records`)."""
        return self.records / run_id / f"seed{seed}.json"

    @property
    def metrics(self) -> Path:
        """Every measured value."""
        return self.results / METRICS

    @property
    def readings(self) -> Path:
        """Table 6 under other readings of its definitions, of all runs."""
        return self.results / "table6_readings.csv"

    @property
    def tables(self) -> Path:
        """Folder of the rendered tables."""
        return self.results / "tables"

    @property
    def figures(self) -> Path:
        """Folder of the figures."""
        return self.results / "figures"

    @property
    def report(self) -> Path:
        """Every table and figure on one page."""
        return self.results / "report.html"
