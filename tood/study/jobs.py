"""The jobs of a study as data: what decides a result, and apart from it, how the result is computed.

`tood.ledger.study_jobs` makes these descriptions, the rules pass them on as JSON, and each step of
`tood.workflow.steps` hands them to one function of `tood`. What decides a result is a Snakemake `param`: a
change of it computes it again. How it is computed is a `resource`: a change of it does not. A new option is
one field here.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field

from tood.data.validation import Split
from tood.study.declarations import Declaration
from tood.study.settings import Settings

Device = Literal["auto", "cpu", "cuda"]
# Of the network in training; losses are in float32. With "tf32" GPUs round what they multiply.
Precision = Literal["float32", "tf32", "bf16"]
DEFAULT_PRECISION: Precision = "float32"
Logger = Literal["tensorboard"]  # what is written of a training beside its JSON lines
Positive = Annotated[int, Field(gt=0)]


class Described(Declaration):
    """What is passed from a rule to a script."""

    def argument(self) -> str:
        """As JSON, for the command line; without defaults, so that a new option changes no earlier job."""
        return self.model_dump_json(exclude_defaults=True)


class Computing(Described):
    """How each process of a job computes. A scale sets it."""

    threads: Positive = 1
    workers: Annotated[int, Field(ge=0)] = 0  # processes that load images
    # Images of a process that have activations at a time. None: all that it has.
    micro_batch: Positive | None = None
    compile: bool = False  # backbone and neck in training, by torch.compile


class Resources(Computing):
    """What one job asks machines for. Each GPU has a process; without GPUs there is one process."""

    gpus: Positive = 1  # on each node; none where the study computes on CPUs
    nodes: Positive = 1
    mem_mb: Positive = 2000  # of each process
    runtime: Positive = 60  # minutes


class Execution(Computing):
    """How a job is computed, whatever comes out of it."""

    device: Device = "auto"
    checkpoint_minutes: Annotated[float, Field(ge=0)] = 10.0  # between checkpoints of a training
    checkpoint_iterations: Positive | None = None  # also after each multiple of this number
    logger: Logger | None = None
    wait: bool = True  # for another process that trains the same run; False: fail, naming it

    @classmethod
    def of(cls, computing: Computing, device: Device, threads: int) -> Self:
        """As a scale says, but for the threads, which the machine may limit."""
        fields = {name: getattr(computing, name) for name in Computing.model_fields}
        return cls(**fields | {"device": device, "threads": threads})


class OfRun(Described):
    """What decides something of one run."""

    settings: Settings

    @property
    def run(self) -> str:
        """Id of the run."""
        return self.settings["run"]["id"]


class TrainingJob(OfRun):
    """What decides the result of a training."""

    seed: int
    manifest: Path  # of the checked dataset
    weights: Path | None = None  # that the backbone starts from; None: random ones
    code: str = ""  # digest of the code that trains


class ImportJob(OfRun):
    """What decides the weights of a run that is not trained; `released` of its settings names the file."""

    seed: int
    manifest: Path  # of the checked dataset
    file: Path  # of the released weights
    code: str = ""  # digest of the code that reads them and of the model


class MeasuringJob(OfRun):
    """What decides a measurement on a trained run, whose settings are those of its training."""

    model: Path  # its weights
    manifest: Path  # of the checked dataset
    images: Positive | None = None  # only the first validation images, this many; None: all
    batch_size: Positive = 1
    evaluation: str = ""  # digest of how AP is measured


class AnalysisJob(MeasuringJob):
    """What decides a measurement on a run of Table 6."""

    # Digests of how these are measured, as `evaluation` is of AP
    analysis: str = ""  # Table 6
    best_anchors: str = ""  # of each object


class SubmissionJob(MeasuringJob):
    """What decides a submission to COCO's server."""

    test: Split  # images whose annotations the server keeps


class Figure1Job(Described):
    """What decides Figures 1 and 4: their detectors by their names in them, the baseline first."""

    detectors: dict[str, MeasuringJob]
    seed: int | None = None  # of their trainings; None: it is not said


class RehearsalJob(Described):
    """What a rehearsal tries of a run: its training on a few images, and an evaluation after it."""

    training: TrainingJob
    measuring: AnalysisJob
    analysed: bool = False  # the run is one of Table 6
    iterations: Positive | None = None  # None: as many as the device can do in about a minute
    micro_batch: Positive | None = None  # that alone is tried; None: several on a GPU
