"""A study: a scale of `experiments/scales/` with what the user changes of it on the command line.

Read at every workflow start, hence only yaml and pydantic.
"""

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import Field, ValidationError

from tood.data.synthetic import DrawingSpec
from tood.data.validation import Split
from tood.runtime.text import did_you_mean
from tood.study.code_digest import config_files, import_code, training_code
from tood.study.declarations import (
    Declaration,
    ExperimentError,
    Run,
    load_runs,
    select_runs,
)
from tood.study.jobs import (
    DEFAULT_PRECISION,
    AnalysisJob,
    Device,
    Execution,
    ImportJob,
    Logger,
    MeasuringJob,
    Positive,
    Precision,
    Resources,
    TrainingJob,
    renamed,
)
from tood.study.paths import ALIGNMENT, AP, BEST_ANCHORS, CONFIGS, StudyPaths
from tood.study.provenance import evaluation_digest
from tood.study.released import RELEASED, Choice, ReleasedFile, choose_all
from tood.study.scales import (
    SCALES,
    BackboneChanges,
    Tolerance,
    load_scale,
    merged,
    scale_names,
    seeds_by_run,
)


class Study(Declaration):
    """What one call of the workflow does; every field but `scale` has the scale's or a plain default.

    Those marked * make the numbers incomparable with the scale's own, so they need a `name` of their own
    for the results folder.
    """

    scale: str = "smoke"
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_.-]*$")] | None = None
    data_root: Path | None = None
    data_seed: Annotated[int, Field(ge=0)] | None = None  # * of a scale that draws its data
    runs: tuple[str, ...] | None = None  # default: all that are implemented
    seeds: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    device: Device | None = None
    gpus: Positive | None = None  # that train one run together
    micro_batch: Positive | None = None  # images in one forward pass of a process
    logger: Logger | None = None  # event files of each training, too
    weights: Literal["imagenet", "random", "released"] | None = None  # *
    iterations: Positive | None = None  # * stop each training after this many
    batch_size: Positive | None = None  # *
    lr: Annotated[float, Field(gt=0)] | None = None  # *
    schedule: Annotated[float, Field(gt=0)] | None = None  # * times the epochs and milestones of each run
    precision: Precision | None = None  # *
    val_images: Positive | None = None  # * evaluate on the first images only, this many
    near: tuple[str, ...] | None = None  # released files of another recipe that are taken all the same
    released: Path | None = None  # declares released files instead of experiments/released.yaml
    fresh: bool | None = None  # train also what has a record
    test2017: bool | None = None  # `snakemake download` fetches the images of COCO's test set too


Training = tuple[str, int]  # run and seed

# Those marked *
_INCOMPARABLE = (
    *("data_seed", "weights", "iterations", "batch_size", "lr", "schedule", "precision"),
    "val_images",
)
_OF_TRAININGS = (
    *("iterations", "batch_size", "lr", "schedule", "precision", "gpus", "micro_batch"),
    "logger",
)
# What a call may change of the resources that a scale gives its trainings.
_RESOURCES = set(Study.model_fields) & set(Resources.model_fields)


class Plan:
    """A validated study, ready for the workflow: names, paths, and the settings of each training.

    Args:
        options: what the user passed with `--config`, values as Snakemake parses them; `runs`, `seeds`
            and `near` may be one value, a list, or a comma-separated string.

    Raises:
        ExperimentError: an unknown option, scale or run, or a value that does not fit.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.study = _parse_study(options)
        self.scale = load_scale(self.study.scale)
        self.all_runs: dict[str, Run] = load_runs()
        backbones = {run.backbone for run in self.all_runs.values()}
        if unknown := sorted(set(self.scale.backbones) - backbones):
            raise ExperimentError(
                f"{SCALES / self.scale.name}.yaml: backbones: no run has the backbone "
                f"{unknown[0]!r}; there are {', '.join(sorted(backbones))}"
            )
        texts = [_config_text(run.config) for run in self.all_runs.values() if run.implemented]
        if unused := [head for head in self.scale.heads if not any(head in text for text in texts)]:
            raise ExperimentError(
                f"{SCALES / self.scale.name}.yaml: heads: no configuration under experiments/configs has the "
                f"head {unused[0]!r}; correct its spelling or remove it"
            )
        self.runs: list[Run] = select_runs(self.study.runs or self.scale.runs, self.all_runs)
        self.seeds = tuple(dict.fromkeys(self.study.seeds or self.scale.seeds))
        self._seeds_of = {} if self.study.seeds else seeds_by_run(self.scale, self.all_runs)
        self.choices: dict[str, Choice] = {}  # of released files, by run
        if self.imports:
            self._choose_released()
        elif self.study.near or self.study.released:
            raise ExperimentError("--config near, released: need weights=released; add it")
        changed = [key for key in _INCOMPARABLE if getattr(self.study, key) is not None]
        named = [key for key in changed if not (self.imports and key == "weights")]  # whose name is a default
        if named and self.study.name is None:
            raise ExperimentError(
                f"--config {' '.join(named)}: numbers obtained so are not those of scale "
                f"{self.scale.name!r}; give the study a name for its results: --config name=NAME"
            )
        if self.study.name in scale_names() and (changed or self.study.name != self.scale.name):
            raise ExperimentError(f"--config name={self.study.name}: that is a scale's; choose another name")
        if self.study.gpus and not self.on_gpu:
            raise ExperimentError("--config gpus: needs GPUs to be asked for; add device=cuda")
        if self.scale.drawing and self.study.data_root:
            raise ExperimentError(
                f"--config data_root: scale {self.scale.name!r} draws its own data; "
                f"for a dataset of yours use --config scale=paper data_root=PATH name=NAME"
            )

    @property
    def name(self) -> str:
        """Of the results folder."""
        return self.study.name or ("released" if self.imports else self.scale.name)

    @property
    def data_root(self) -> Path:
        """Folder of the dataset."""
        if self.study.data_seed is not None:
            return self.scale.data_root.with_name(f"{self.scale.data_root.name}_seed{self.study.data_seed}")
        return self.study.data_root or self.scale.data_root

    @property
    def drawing(self) -> DrawingSpec | None:
        """What the dataset is drawn by; None where it is the user's."""
        if self.scale.drawing is None or self.study.data_seed is None:
            return self.scale.drawing
        return self.scale.drawing.model_copy(update={"seed": self.study.data_seed})

    @property
    def weights(self) -> str:
        """What backbones start from, "imagenet" or "random"; or "released": nothing is trained."""
        return self.study.weights or self.scale.weights

    @property
    def imports(self) -> bool:
        """Whether the study takes released weights instead of training."""
        return self.weights == "released"

    @property
    def splits(self) -> dict[str, Split]:
        """The parts of the dataset that the study uses."""
        return ({} if self.imports else {"train": self.scale.train}) | {"val": self.scale.val}

    @property
    def device(self) -> Device:
        """Where jobs compute."""
        return self.study.device or self.scale.device

    @property
    def on_gpu(self) -> bool:
        """Whether jobs ask for GPUs: where neither the user nor the scale says CPU, and one says CUDA."""
        return self.device != "cpu" and "cuda" in (self.device, self.scale.device)

    def resources(self, run_id: str) -> Resources:
        """What the training of a run asks for."""
        asked = self._backbone(run_id).resources or self.scale.resources
        return asked.model_copy(update=self.study.model_dump(include=_RESOURCES, exclude_none=True))

    def seeds_of(self, run_id: str) -> tuple[int, ...]:
        """Seeds of a run."""
        return self._seeds_of.get(run_id, self.seeds)

    @property
    def trainings(self) -> list[Training]:
        """Run and seed of every training of the study."""
        return [(run.id, seed) for run in self.runs for seed in self.seeds_of(run.id)]

    def schedule(self, run_id: str) -> tuple[int, tuple[int, ...]]:
        """Epochs of a run, and those after which its learning rate falls."""
        run = self.all_runs[run_id]
        share = self._backbone(run_id).schedule * (self.study.schedule or 1)
        epochs, *milestones = (max(1, round(share * epoch)) for epoch in (run.epochs, *run.milestones))
        return epochs, tuple(milestones)

    def _backbone(self, run_id: str) -> BackboneChanges:
        return self.scale.backbones.get(self.all_runs[run_id].backbone, BackboneChanges())

    def initial_weights(self, run_id: str) -> Path | None:
        """The file that the backbone of a run starts from; None if it starts at random, or is not trained."""
        return Path("weights", f"{self.all_runs[run_id].weights}.pth") if self.weights == "imagenet" else None

    def released(self, run_id: str) -> ReleasedFile | None:
        """The released weights that the study takes for a run."""
        return self.choices[run_id].file if run_id in self.choices else None

    def import_job(self, run_id: str, seed: int) -> ImportJob:
        """What decides the weights of a run that is not trained."""
        file = cast(ReleasedFile, self.released(run_id))
        return ImportJob(
            settings=self.settings(run_id),
            seed=seed,
            manifest=StudyPaths(self.name).manifest,
            file=file.path,
            code=self._codes[run_id],
        )

    def training_job(self, run_id: str, seed: int) -> TrainingJob:
        """What decides the training of one of the study's runs."""
        return TrainingJob(
            settings=self.settings(run_id),
            seed=seed,
            manifest=StudyPaths(self.name).manifest,
            weights=self.initial_weights(run_id),
            code=self._codes[run_id],
        )

    def training_execution(self, run_id: str, threads: int) -> Execution:
        """How the training of a run is computed, on this many threads for each process."""
        execution = Execution.of(self.resources(run_id), self.device, threads)
        return execution.model_copy(update={"logger": self.study.logger})

    def measuring_job(self, run_id: str, seed: int) -> MeasuringJob:
        """What decides the AP of a trained run."""
        paths = StudyPaths(self.name)
        return MeasuringJob(
            settings=self.settings(run_id),
            model=paths.run(run_id, seed).model,
            manifest=paths.manifest,
            images=self.study.val_images,
            batch_size=self.scale.test_batch_size,
            evaluation=self._evaluations[AP],
        )

    def analysis_job(self, run_id: str, seed: int) -> AnalysisJob:
        """What decides the AP of a trained run, its columns of Table 6, and its objects' best anchors."""
        measuring, digests = self.measuring_job(run_id, seed).model_dump(), self._evaluations
        return AnalysisJob(**measuring, analysis=digests[ALIGNMENT], best_anchors=digests[BEST_ANCHORS])

    def figure_job(self, run_id: str, seed: int) -> MeasuringJob:
        """What decides a figure of a trained run; it carries no digest."""
        return self.measuring_job(run_id, seed).model_copy(update={"batch_size": 1, "evaluation": ""})

    def measuring_execution(self, threads: int) -> Execution:
        """How a measurement is computed, on this many threads."""
        return Execution.of(self.scale.evaluation, self.device, threads)

    def settings(self, run_id: str) -> dict:
        """Everything that decides the result of a training besides code, data and seed; JSON-ready."""
        scale, study = self.scale, self.study
        run = self.all_runs[run_id]
        # Those of other heads do not decide this training.
        heads = {head: change for head, change in scale.heads.items() if head in _config_text(run.config)}
        training = scale.training.model_dump(exclude_none=True)
        training |= study.model_dump(include={"batch_size", "lr", "precision"}, exclude_none=True)
        if training.get("precision") == DEFAULT_PRECISION:
            del training["precision"]  # what was trained before there was a choice is the same training
        epochs, milestones = self.schedule(run_id)
        released = self.released(run_id)
        return {
            "run": run.model_dump(include={"id", "config"}, mode="json")
            | {"options": self._options(run_id), "epochs": epochs, "milestones": list(milestones)},
            "model": merged(scale.model, self._backbone(run_id).model),
            "heads": heads,
            "input": scale.input.model_dump(mode="json", exclude_none=True),
            "train": training,
            "splits": {"train": scale.train._asdict(), "val": scale.val._asdict()},
            "weights": self.weights,
            "iterations": study.iterations,
            **({"released": released.file} if released else {}),
        }

    @functools.cached_property  # Snakemake asks for each job several times
    def _codes(self) -> dict[str, str]:
        """Digest of the code that decides the weights of each run of the study."""
        return {run.id: self.code(run.id) for run in self.runs}

    def code(self, run_id: str) -> str:
        """Digest of the code, as it is now, that decides the weights of a run, which must be implemented."""
        digest_of = import_code if self.imports else training_code
        return digest_of(cast(str, self.all_runs[run_id].config), self._options(run_id))

    @functools.cached_property
    def _evaluations(self) -> dict[str, str]:
        """Digest of how each result is measured."""
        results = (AP, ALIGNMENT, BEST_ANCHORS)
        return {result: evaluation_digest(result, self.study.val_images) for result in results}

    def _options(self, run_id: str) -> dict[str, Any]:
        """A run's deviations from its configuration, and those of the released file that is taken for it."""
        released = self.released(run_id)
        return self.all_runs[run_id].options | (released.options if released else {})

    def _choose_released(self) -> None:
        """Choose the file of each run, and leave out runs that have none."""
        if self.scale.model or self.scale.heads:
            raise ExperimentError(
                f"--config weights=released: no released file fits the models of scale {self.scale.name!r}; "
                "add scale=paper"
            )
        wrong = [key for key in _OF_TRAININGS if getattr(self.study, key) is not None]
        if wrong := wrong or ["seeds"] * any(len(self.seeds_of(run.id)) > 1 for run in self.runs):
            raise ExperimentError(f"--config {' '.join(wrong)}: weights=released trains nothing; omit it")
        near, declaration = self.study.near or (), self.study.released or RELEASED
        self.choices = choose_all(self.runs, self.all_runs, near, declaration)
        self.runs = [run for run in self.runs if self.released(run.id)]

    @property
    def tolerance(self) -> Tolerance | None:
        """Within which values are compared with the paper's; None where nothing is to be expected of them."""
        study = self.study
        differing = {"data_root", *_INCOMPARABLE} - {"weights", "precision"}
        differs = any(getattr(study, key) is not None for key in differing)
        return None if differs or self.weights == "random" else self.scale.tolerance

    def notes(self) -> list[str]:
        """What a reader of the tables must know about how these numbers came about."""
        scale, study = self.scale, self.study
        notes = [f"Scale {scale.name}: {scale.description}"]
        shares = {name: changes.schedule for name, changes in scale.backbones.items()}
        for share in sorted({share for share in shares.values() if share < 1}):
            names = ", ".join(name for name, other in shares.items() if other == share)
            notes.append(f"Runs with {names} train {share:.0%} of their epochs.")
        if study.data_root:
            notes.append(f"Data: {study.data_root.name} (COCO layout), not necessarily COCO 2017.")
        if self.weights == "random":
            notes.append("Backbones start from random weights, not from ImageNet's.")
        if self.imports:
            notes.append("Nothing was trained: the weights were released by others, as the footnotes say.")
        if study.iterations:
            notes.append(f"Every training was stopped after {study.iterations} iterations.")
        if study.data_seed is not None:
            notes.append(f"Images are drawn with seed {study.data_seed}.")
        if study.lr:
            notes.append(f"Learning rate {study.lr:g}.")
        if study.schedule:
            notes.append(f"Every training has {study.schedule:g} times its epochs.")
        if study.batch_size:
            notes.append(f"Batches of {study.batch_size} images, with the learning rate unchanged.")
        if (study.precision or scale.training.precision or DEFAULT_PRECISION) != DEFAULT_PRECISION:
            notes.append("Networks were trained in bfloat16 where torch's autocast allows it.")
        if study.val_images:
            notes.append(f"Evaluated on the first {study.val_images} validation images only.")
        others = {seeds for run in self.runs if (seeds := self.seeds_of(run.id)) != self.seeds}
        also = f"; of some runs {' or '.join(_listed(seeds) for seeds in sorted(others))}" if others else ""
        notes.append(f"Seeds: {_listed(self.seeds)}{also}.")
        return notes


def _listed(seeds: tuple[int, ...]) -> str:
    return ", ".join(map(str, seeds))


@functools.cache  # runs share configurations, and are asked for often
def _config_text(config: str) -> str:
    """A configuration and those it builds on, as they are written."""
    return "".join(path.read_text() for path in config_files(CONFIGS / config))


def _parse_study(options: Mapping[str, Any]) -> Study:
    values = dict(options)
    for key in ("runs", "seeds", "near"):
        if isinstance(values.get(key), str):
            values[key] = [part for part in re.split(r"[,\s]+", values[key]) if part]
        elif values.get(key) is not None and not isinstance(values[key], list | tuple):
            values[key] = [values[key]]
    if values.get("name") is not None:
        values["name"] = str(values["name"])
    unknown = [key for key in values if key not in Study.model_fields]
    if unknown:
        if message := renamed(unknown[0]):
            raise ExperimentError(f"--config {unknown[0]}={values[unknown[0]]}: {message}")
        raise ExperimentError(
            f"--config {unknown[0]}: unknown option; {did_you_mean(unknown[0], Study.model_fields)}"
            f"there are {', '.join(Study.model_fields)}"
        )
    try:
        return Study(**values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise ExperimentError(
            f"--config {key}={first['input']!r}: {first['msg']}; see docs/configuration.md"
        ) from error
