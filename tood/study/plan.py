"""A study: a scale of `experiments/scales/` with what the user changes of it on the command line.

Read at every workflow start, hence only yaml and pydantic.
"""

import contextlib
import functools
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tood.data.annotations import DataError
from tood.data.conversion import LINK, Conversion, conversion_of, sources_digest
from tood.data.synthetic import DrawingSpec
from tood.data.validation import Split
from tood.runtime.text import there_are
from tood.study.declarations import ExperimentError, Run, load_runs, select_runs
from tood.study.jobs import DEFAULT_PRECISION, Device, Execution, Resources
from tood.study.options import INCOMPARABLE, OF_TRAININGS, RESOURCES, check_data, parse_study
from tood.study.paths import CONFIGS, SWEEPS, StudyPaths
from tood.study.pyramid import fitted_head, fitted_model
from tood.study.released import RELEASED, ReleasedChoice, ReleasedFile, choose_all
from tood.study.scales import (
    SCALES,
    BackboneChanges,
    Tolerance,
    load_scale,
    merged,
    scale_names,
    seeds_by_run,
)
from tood.study.settings import RunSettings, Settings, SplitSettings
from tood.study.source_files import config_files, config_settings
from tood.study.variation import Change, Options, sentence, variations

_PRECISION_NOTES = {
    "tf32": "GPUs that have TF32 trained with it: they rounded what convolutions and products multiply.",
    "bf16": "Networks were trained in bfloat16 where torch's autocast allows it.",
}


class Training(NamedTuple):
    """One training of a study."""

    run: str
    seed: int


class Plan:
    """A validated study, ready for the workflow: names, paths, and the settings of each training.

    Args:
        options: what the user passed with `--config`, by `tood.study.options.parse_options`, or from a file;
            `runs`, `seeds` and `near` may be one value, a list, or a comma-separated string.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.study = parse_study(options)
        self.scale = load_scale(self.study.scale)
        self.all_runs: dict[str, Run] = load_runs()
        self._check_scale()
        self.runs: list[Run] = select_runs(self.study.runs or self.scale.runs, self.all_runs)
        self.seeds = tuple(dict.fromkeys(self.study.seeds or self.scale.seeds))
        self._seeds_of = {} if self.study.seeds else seeds_by_run(self.scale, self.all_runs)
        self.choices: dict[str, ReleasedChoice] = {}  # of released files, by run
        self.variations: dict[str, dict[str, Change]] = {}  # of runs, by dotted key
        if self.imports:
            self._choose_released()
        elif self.study.near or self.study.released:
            raise ExperimentError("--config near, released: need weights=released; add it")
        self._check_name()
        if self.study.gpus and not self.on_gpu:
            raise ExperimentError("--config gpus: needs GPUs to be asked for; add device=cuda")
        check_data(self.study, self.scale)
        self.conversion = self._conversion()
        if self.study.options:
            known = self._with_records(run.id for run in self.runs)
            self.variations = variations(self.study.options, known, self.all_runs, self.settings)

    def _check_scale(self) -> None:
        """That what the scale changes is of a run."""
        path = f"{SCALES / self.scale.name}.yaml"
        backbones = {run.backbone for run in self.all_runs.values()}
        if unknown := sorted(set(self.scale.backbones) - backbones):
            also = there_are(unknown[0], sorted(backbones))
            raise ExperimentError(f"{path}: backbones: no run has the backbone {unknown[0]!r}; {also}")
        texts = [_config_text(run.config) for run in self.all_runs.values()]
        if unused := [head for head in self.scale.heads if not any(head in text for text in texts)]:
            raise ExperimentError(
                f"{path}: heads: no configuration under experiments/configs has the head {unused[0]!r}; "
                "correct its spelling or remove it"
            )

    def _check_name(self) -> None:
        """That results are not written among those of another study."""
        changed = [key for key in INCOMPARABLE if getattr(self.study, key) is not None]
        named = [key for key in changed if not (self.imports and key == "weights")]  # whose name is a default
        if named and self.study.name is None:
            raise ExperimentError(
                f"--config {' '.join(named)}: numbers obtained so are not those of scale "
                f"{self.scale.name!r}; give the study a name for its results: --config name=NAME"
            )
        own = changed or (self.scale.drawing and self.study.data_root)
        if self.study.name in scale_names() and (own or self.study.name != self.scale.name):
            raise ExperimentError(f"--config name={self.study.name}: that is a scale's; choose another name")
        if self.study.name == SWEEPS:
            raise ExperimentError(f"--config name={SWEEPS}: is a folder of studies; write name={SWEEPS}/NAME")

    @property
    def name(self) -> str:
        """Of the results folder."""
        return self.study.name or ("released" if self.imports else self.scale.name)

    @property
    def data_root(self) -> Path:
        """Folder of the dataset in COCO's layout."""
        if self.conversion:
            return StudyPaths(self.name).data
        if self.study.data_seed is not None:
            return self.scale.data_root.with_name(f"{self.scale.data_root.name}_seed{self.study.data_seed}")
        return self.study.data_root or self.scale.data_root

    @property
    def description(self) -> str:
        """What the scale is; with images of the user's, of its models alone."""
        return f"{self.scale.models}." if self.own_data else self.scale.description

    @property
    def own_data(self) -> bool:
        """Whether the images are others than the scale's, so that no value of the paper is of such images."""
        if not self.study.data_root:
            return False
        return bool(self.scale.drawing) or self._splits != {"train": self.scale.train, "val": self.scale.val}

    @property
    def drawing(self) -> DrawingSpec | None:
        """What the dataset is drawn by; None where it is the user's."""
        if self.study.data_root:
            return None
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
        return {name: split for name, split in self._splits.items() if name != "train" or not self.imports}

    @property
    def _splits(self) -> dict[str, Split]:
        """Those of the dataset, used or not."""
        if self.conversion:
            return {name: Split(f"{name}.json", LINK) for name in ("train", "val")}
        own = {"train": self.study.train, "val": self.study.val}
        return {
            name: split if isinstance(split, Split) else getattr(self.scale, name)
            for name, split in own.items()
        }

    def _conversion(self) -> Conversion | None:
        """How the user's splits become those of `_splits`; None where they are these already, or drawn."""
        if not self.study.data_root:
            return None
        given = {"train": self.study.train, "val": self.study.val}
        try:
            usual = {name: getattr(self.scale, name) for name in given}
            conversion = conversion_of(self.study.data_root, given, usual, self.study.classes or ())
        except DataError as error:
            raise ExperimentError(f"--config {error}") from None
        return conversion.of(["val"]) if conversion and self.imports else conversion

    @functools.cached_property
    def sources(self) -> str:
        """Digest of what is converted, as it is now; empty where nothing is, or where it cannot be read."""
        return sources_digest(self.conversion) if self.conversion else ""

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
        resources = self._backbone(run_id).resources or self.scale.resources
        return resources.model_copy(update=self.study.model_dump(include=RESOURCES, exclude_none=True))

    def seeds_of(self, run_id: str) -> tuple[int, ...]:
        """Seeds of a run."""
        return self._seeds_of.get(run_id, self.seeds)

    @property
    def trainings(self) -> list[Training]:
        """Every training of the study."""
        return [Training(run.id, seed) for run in self.runs for seed in self.seeds_of(run.id)]

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

    def training_execution(self, run_id: str, threads: int) -> Execution:
        """How the training of a run is computed, on this many threads for each process."""
        execution = Execution.of(self.resources(run_id), self.device, threads)
        return execution.model_copy(update={"logger": self.study.logger})

    def measuring_execution(self, threads: int) -> Execution:
        """How a measurement is computed, on this many threads."""
        return Execution.of(self.scale.evaluation, self.device, threads)

    def settings(self, run_id: str) -> Settings:
        """Everything that decides the result of a training besides code, data and seed; JSON-ready."""
        scale, study = self.scale, self.study
        run = self.all_runs[run_id]
        # Those of other heads do not decide this training.
        heads = {head: change for head, change in scale.heads.items() if head in _config_text(run.config)}
        model, taken = scale.model, scale.input.model_dump(mode="json", exclude_none=True)
        if study.image_size:
            longer, shorter = sorted(study.image_size, reverse=True)
            taken["size"] = [longer, shorter]
            model = fitted_model(model, longer)
            heads = {head: fitted_head(change, longer) for head, change in heads.items()}
        training = scale.training.model_dump(exclude_none=True)
        training |= study.model_dump(include={"batch_size", "lr", "precision"}, exclude_none=True)
        if training.get("precision") == DEFAULT_PRECISION:
            del training["precision"]  # what was trained before there was a choice is the same training
        epochs, milestones = self.schedule(run_id)
        released = self.released(run_id)
        settings = Settings(
            run=RunSettings(
                id=run.id,
                config=run.config,
                options=self.options(run_id),
                epochs=epochs,
                milestones=list(milestones),
            ),
            model=merged(model, self._backbone(run_id).model),
            heads=heads,
            input=taken,
            train=training,
            splits={
                name: SplitSettings(annotations=split.annotations, images=split.images)
                for name, split in self._splits.items()
            },
            weights=self.weights,
            iterations=study.iterations,
        )
        if released:
            settings["released"] = released.file
        if self.conversion and self.conversion.classes:
            settings["classes"] = list(self.conversion.classes)
        return settings

    @property
    def input_sizes(self) -> list[list[int]]:
        """Limits of the (longer, shorter) side at the inputs of the runs, in pixels, each once.

        Without those of runs whose configuration is a program, at scales that leave the size to it.
        """
        sizes: set[tuple[int, ...]] = set()
        for run in self.runs:
            settings = self.settings(run.id)
            given = settings["run"]["options"].get("input.size") or settings["input"].get("size")
            with contextlib.suppress(ValueError):
                given = given or config_settings(CONFIGS / run.config)["input"]["size"]
            sizes |= {tuple(sorted(given, reverse=True))} if given else set()
        return [list(size) for size in sorted(sizes)]

    def options(self, run_id: str) -> dict[str, Any]:
        """A run's deviations from its configuration: its own, and the study's or of its released file."""
        released = self.released(run_id)
        varied = {key: change.now for key, change in self.variations.get(run_id, {}).items()}
        return self.all_runs[run_id].options | varied | (released.options if released else {})

    def _with_records(self, runs: Iterable[str]) -> set[str]:
        """These runs, and those of which an earlier call left records."""
        return {*runs, *(folder.name for folder in StudyPaths(self.name).records.glob("*"))}

    def options_for(self, runs: Iterable[str]) -> Options | None:
        """The variations that a call of some of the runs can have."""
        known, given = self._with_records(runs), self.study.options or {}
        return {run: given[run] for run in given if run in known} or None

    def _choose_released(self) -> None:
        """Choose the file of each run, and leave out runs that have none."""
        if self.scale.model or self.scale.heads:
            raise ExperimentError(
                f"--config weights=released: no released file fits the models of scale {self.scale.name!r}; "
                "add scale=paper"
            )
        wrong = [key for key in OF_TRAININGS if getattr(self.study, key) is not None]
        if wrong := wrong or ["seeds"] * any(len(self.seeds_of(run.id)) > 1 for run in self.runs):
            raise ExperimentError(f"--config {' '.join(wrong)}: weights=released trains nothing; omit it")
        near, declaration = self.study.near or (), self.study.released or RELEASED
        self.choices = choose_all(self.runs, self.all_runs, near, declaration)
        self.runs = [run for run in self.runs if self.released(run.id)]

    @property
    def tolerance(self) -> Tolerance | None:
        """Within which values are compared with the paper's; None where nothing is to be expected of them."""
        study = self.study
        differing = {"data_root", *INCOMPARABLE} - {"weights", "precision"}
        differs = any(getattr(study, key) is not None for key in differing)
        return None if differs or self.weights == "random" else self.scale.tolerance

    @property
    def data_note(self) -> str:
        """What a reader of the tables must know about the user's data; empty for those of the scale."""
        root, layout = self.study.data_root, self.conversion.layout if self.conversion else "COCO"
        if not root:
            return ""
        some = self.conversion.classes if self.conversion else ()
        only = f" Of their classes only {', '.join(some)}; images without these are kept." if some else ""
        size = sorted(self.study.image_size or self.scale.input.size or (), reverse=True)
        more = f"scaled, up or down, to fit into {' × '.join(map(str, size))} pixels"
        if not self.scale.drawing:
            more = "not necessarily COCO 2017"
        return f"Data: {root.name} ({layout} layout), {more}.{only}"

    def notes(self, trainings: Iterable[Training] | None = None) -> list[str]:
        """What a reader of the tables must know about how these numbers came about.

        Args:
            trainings: that the tables show; None: those of the study.
        """
        scale, study = self.scale, self.study
        notes = [f"Scale {scale.name}: {self.description}", *scale.notes]
        shares = {name: changes.schedule for name, changes in scale.backbones.items()}
        for share in sorted({share for share in shares.values() if share < 1}):
            names = ", ".join(name for name, other in shares.items() if other == share)
            notes.append(f"Runs with {names} train {share:.0%} of their epochs.")
        notes += filter(None, [self.data_note])
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
            notes.append(f"Every training has {study.schedule:g} times the epochs of its run.")
        if study.batch_size:
            same = "" if study.lr else ", with the learning rate unchanged"
            notes.append(f"Batches of {study.batch_size} images{same}.")
        if note := _PRECISION_NOTES.get(study.precision or scale.training.precision or DEFAULT_PRECISION):
            notes.append(note)
        notes += [sentence(run, changed) for run, changed in self.variations.items()]
        if study.val_images:
            notes.append(f"Evaluated on the first {study.val_images} validation images only.")
        return [*notes, _seeds_note(self.trainings if trainings is None else trainings)]


def _seeds_note(trainings: Iterable[Training]) -> str:
    """The seeds of most runs, and those of others."""
    by_run: dict[str, list[int]] = {}
    for run, seed in trainings:
        by_run.setdefault(run, []).append(seed)
    counted = Counter(", ".join(map(str, sorted(seeds))) for seeds in by_run.values())
    (most, _), *others = counted.most_common() or [("none", 0)]
    also = f"; of some runs {' or '.join(sorted(seeds for seeds, _ in others))}" if others else ""
    return f"Seeds: {most}{also}."


@functools.cache  # runs share configurations, and are asked for often
def _config_text(config: str) -> str:
    """A configuration and those it builds on, as they are written."""
    return "".join(path.read_text() for path in config_files(CONFIGS / config))
