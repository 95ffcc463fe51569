"""Weights that were released by others: which files there are, and which of them a study takes.

`experiments/released.yaml` declares them. Nothing is fetched here. Each start of the workflow reads this, so
it imports little.
"""

import functools
import importlib.util
import math
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import Field, field_validator, model_validator

from tood.runtime.download import Source, digest_in_name
from tood.runtime.text import did_you_mean
from tood.study.declarations import Declaration, ExperimentError, ImageSet, Run, load_declared, unknown_run
from tood.study.paths import EXPERIMENTS

RELEASED = EXPERIMENTS / "released.yaml"
FOLDER = Path("weights", "released")  # of all files, fetched or put there by hand
_ORIGINS = {
    "mmdet": "mmdetection's zoo",
    "authors": "the TOOD authors' release",
    "other": "another release",
    "hand": "a file that was put there by hand",
}
# What the options of a file may hold. A declaration may come from anywhere, and mmengine would import what a
# `type` names, and read what the excluded keys name.
_TYPE = re.compile(r"(tood\.\w+|AnchorGenerator|BN|SyncBN|GN)", re.ASCII)
_KEY = re.compile(r"(?!(init_cfg|pretrained|checkpoint)$)[a-z][a-z0-9_]*", re.ASCII)
_WORD = re.compile(r"[\w-]{0,40}", re.ASCII)
_LARGEST = 4096  # counts and widths; a larger one would need more memory than there is


class ReleasedFile(Declaration):
    """One file of weights, for one run."""

    run: str
    file: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*\.pth$")]
    origin: Literal["mmdet", "authors", "other", "hand"]
    drive: str | None = None  # id on Google Drive
    address: str | None = None
    AP: float | None = None  # percent, as the origin states it
    set: ImageSet | None = None  # images that this AP is of
    note: str | None = None
    near: str | None = None  # why it is not the run's own recipe
    options: dict[str, Any] = {}  # deviations from the run's model

    @field_validator("options")
    @classmethod
    def _plain(cls, options: dict[str, Any]) -> dict[str, Any]:
        for key, value in options.items():
            if not key.startswith("model."):
                raise ValueError(f"{key!r} is nothing of the model; write model.PART.KEY")
            _require_plain(key, value)
        return options

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.drive is None) == (self.origin == "authors"):
            raise ValueError("`drive` belongs to files of the authors, and each of them has one")
        if self.address is not None and self.origin != "other":
            raise ValueError("`address` belongs to files of the origin `other`; remove it or change `origin`")
        if (self.AP is None) != (self.set is None):
            raise ValueError("an AP is of a `set`, val2017 or test-dev2017; give both or neither")
        if self.options and self.near is None:
            raise ValueError("with `options` the model is another one; say in `near` what differs")
        return self

    @property
    def path(self) -> Path:
        """Where it is once it was fetched, or where to put it."""
        return FOLDER / self.file

    @property
    def digest(self) -> str:
        """The start of its sha256 as its name says; empty if the name says nothing."""
        return digest_in_name(self.file)

    @property
    def fetched(self) -> bool:
        """Whether the workflow fetches it."""
        return self.origin == "mmdet" or self.address is not None

    @property
    def from_whom(self) -> str:
        """Its origin in words, such as `mmdetection's zoo`."""
        return _ORIGINS[self.origin]

    @property
    def by_hand(self) -> str:
        """How a person gets it to where it is expected."""
        if self.drive:
            return f"fetch https://drive.google.com/file/d/{self.drive} by hand and put it at {self.path}"
        return f"put it at {self.path}"

    def source(self) -> Source:
        """Where it is fetched from."""
        return Source(self.address or zoo_address(self.file), sha256=self.digest)

    def stated(self) -> str:
        """What is stated of it, and what to know of that, as sentences."""
        stated = f"AP as stated there: {self.AP:.1f} on {self.set}." if self.AP is not None else None
        near = f"Near: {self.near}" if self.near else None
        return " ".join(text for text in (stated, self.note, near) if text)


def _require_plain(key: str, value: Any) -> None:
    """Make sure that an option holds numbers and words, and no name of foreign code or of a file.

    Args:
        key: with dots.
        value: as YAML has it.

    Raises:
        ValueError: it holds anything else.
    """
    *_, last = steps = key.split(".")
    if not all(_KEY.fullmatch(step) for step in steps):
        raise ValueError(f"{key[:80]!r} is no option of a file; leave it out")
    match value:
        case dict():
            for step, inner in value.items():
                _require_plain(f"{key}.{step}", inner)
        case list():
            for inner in value:
                _require_plain(key, inner)
        case str() if last == "type" and not _TYPE.fullmatch(value):
            raise ValueError(f"{key}: {value[:80]!r} is no class of this suite, such as tood.DeformConv2d")
        case str() if last != "type" and not _WORD.fullmatch(value):
            raise ValueError(f"{key}: {value[:80]!r} is no plain word")
        case int() if abs(value) > _LARGEST:
            raise ValueError(f"{key}: is a number above {_LARGEST}; correct it")
        case float() if not math.isfinite(value):
            raise ValueError(f"{key}: {value} is no finite number; correct it")
        case None | bool() | int() | float() | str():
            pass
        case _:
            raise ValueError(f"{key}: is neither a number nor a word, but a {type(value).__name__}")


class _Files(Declaration):
    files: list[ReleasedFile]


class ReleasedChoice(NamedTuple):
    """What a study takes for a run."""

    file: ReleasedFile | None
    remarks: list[str]  # why it is none, or not the first of the run's files


def load_released(path: Path = RELEASED, runs: Mapping[str, Run] | None = None) -> dict[str, ReleasedFile]:
    """All declared files by name, in the order of the declaration.

    Args:
        path: the declaration.
        runs: all runs; a file of any other is refused. None takes them as they are.
    """
    files: dict[str, ReleasedFile] = {}
    for entry in load_declared(_Files, path).files:
        if runs is not None and entry.run not in runs:
            raise ExperimentError(f"{path}: files: {entry.file}: {unknown_run(entry.run, runs)}")
        if entry.file in files:
            raise ExperimentError(f"{path}: files: {entry.file} is declared twice; remove one")
        files[entry.file] = entry
    return files


def choose(run: str, files: Iterable[ReleasedFile], near: Collection[str] = ()) -> ReleasedChoice:
    """The file that a study takes for a run: one put there as `RUN.pth`, else the first that can be had.

    Args:
        files: all that are declared.
        near: names of near files that were asked for; they go before all others.
    """
    own = by_hand(run)
    if own.path.is_file():
        return ReleasedChoice(own, [])
    candidates = [file for file in files if file.run == run]
    candidates.sort(key=lambda file: file.file not in near)
    remarks = []
    for file in candidates:
        if file.near and file.file not in near:
            remarks.append(
                f"{file.file} is near and not the run's own recipe: {file.near} "
                f"`--config near={file.file}` takes it"
            )
        elif file.path.is_file() or file.fetched:
            return ReleasedChoice(file, remarks)
        else:
            remarks.append(f"{file.file} of {file.from_whom} is not in place: {file.by_hand}")
    return ReleasedChoice(None, remarks or ["no file was released for it"])


def by_hand(run: str) -> ReleasedFile:
    """A file of the user's for a run, which is not declared."""
    return ReleasedFile(run=run, file=f"{run}.pth", origin="hand")


def choose_all(
    runs: Iterable[Run], known: Mapping[str, Run], near: Collection[str], declaration: Path
) -> dict[str, ReleasedChoice]:
    """What a study takes for each of its runs.

    Args:
        runs: of the study.
        known: all runs.
        near: as for `choose`.
        declaration: as for `load_released`.
    """
    files = load_released(declaration, known)
    for name in near:
        if name not in files:
            others = [file.file for file in files.values() if file.near]
            hint = f"{did_you_mean(name, others)}near are {', '.join(others)}"
            raise ExperimentError(f"--config near={name}: unknown file; {hint}")
        if not files[name].near:
            raise ExperimentError(f"--config near={name}: it is its run's own recipe; leave it out here")
    choices = {run.id: choose(run.id, files.values(), near) for run in runs}
    if not any(choice.file for choice in choices.values()):
        why = "; ".join(f"{run}: {'; '.join(choice.remarks)}" for run, choice in choices.items())
        raise ExperimentError(f"--config weights=released: none of these runs has a file ({why})")
    return choices


def zoo_address(file: str) -> str:
    """Where mmdetection's zoo has a file, by the metafiles that mmdet brings along."""
    address = _zoo().get(file)
    if address is None:
        raise ExperimentError(
            f"{RELEASED.name}: {file}: no metafile of the installed mmdet names it; correct its name, or "
            "declare it with origin `other` and an address"
        )
    return address


@functools.cache
def _zoo() -> dict[str, str]:
    """Address of every file in mmdet's metafiles; mmdet is found without being imported."""
    package = importlib.util.find_spec("mmdet")
    folders = package.submodule_search_locations if package else None
    addresses = {}
    for metafile in Path(folders[0], ".mim", "configs").glob("*/metafile.yml") if folders else ():
        text = metafile.read_text(encoding="utf-8")
        for address in re.findall(r"^\s*Weights:\s*(\S+\.pth)\s*$", text, re.MULTILINE):
            addresses[address.rsplit("/", 1)[-1]] = address
    return addresses
