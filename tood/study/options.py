"""What the user passes to the workflow with `--config`.

Every value is read from the word that was typed. Snakemake itself reads `2024_01` and `202401` as one
number, and two studies would share a folder. Values of a YAML file have types already; one that is not the
option's is refused. Read at every workflow start, hence only pydantic.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError

from tood.data.conversion import layout_of
from tood.data.validation import Split
from tood.runtime.text import there_are
from tood.study.declarations import Declaration, ExperimentError
from tood.study.jobs import Device, Logger, Precision, Resources
from tood.study.paths import SWEEPS
from tood.study.pyramid import LARGEST, SMALLEST
from tood.study.scales import Scale
from tood.study.variation import DECIMAL, parse_variations

_SPECIAL = re.compile(r"""['"`$\\{}\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]""")
_SPECIAL_HINT = (
    "holds a quote, $, `, \\, a brace or a control character, which shells and Snakemake read as their own; "
    "rename it, or use a link without them"
)
_DIGITS = re.compile(r"[0-9]{1,18}")


def _text(value: object) -> object:
    if isinstance(value, str | Path):
        return value
    raise ValueError(f"YAML reads it as {type(value).__name__}, not as text; in a file put it in quotes")


def _whole(value: object) -> object:
    if isinstance(value, bool) or (isinstance(value, str) and not _DIGITS.fullmatch(value)):
        raise ValueError("is no whole number; write digits alone, such as 12")
    return value


def _decimal(value: object) -> object:
    if isinstance(value, bool) or (isinstance(value, str) and not DECIMAL.fullmatch(value)):
        raise ValueError("is no number; write one such as 0.5 or 1e-3")
    return value


Word = Annotated[str, BeforeValidator(_text)]
File = Annotated[Path, BeforeValidator(_text)]
Name = Annotated[Word, Field(pattern=rf"^({SWEEPS}/)?[A-Za-z0-9_-][A-Za-z0-9_.-]{{0,99}}$")]
Words = Annotated[tuple[Word, ...], Field(min_length=1)]
Classes = Annotated[Words, AfterValidator(lambda names: tuple(sorted(set(names))))]  # the data have an order
Seed = Annotated[int, BeforeValidator(_whole), Field(ge=0, lt=2**32)]  # NumPy takes no larger one
Side = Annotated[int, BeforeValidator(_whole)]  # pixels; `check_data` has its bounds
# Bounds far beyond any machine or recipe: what is larger is a slip.
Batch = Annotated[int, BeforeValidator(_whole), Field(ge=1, le=100_000)]  # images
Count = Annotated[int, BeforeValidator(_whole), Field(ge=1, le=100_000_000)]
Rate = Annotated[float, BeforeValidator(_decimal), Field(ge=1e-9, le=100, allow_inf_nan=False)]
Share = Annotated[float, BeforeValidator(_decimal), Field(ge=1e-3, le=1000, allow_inf_nan=False)]


class Study(Declaration):
    """What one call of the workflow does; every field but `scale` has the scale's or a plain default.

    Those marked * make the numbers incomparable with the scale's own, so they need a `name` of their own
    for the results folder.
    """

    scale: Word = "smoke"
    name: Name | None = None
    data_root: File | None = None
    # In the data's folder: ANNOTATIONS:IMAGES of COCO, or what `tood.data.conversion` takes
    train: Word | Split | None = None
    val: Word | Split | None = None
    classes: Classes | None = None  # * of the data's, that are used; default: all
    image_size: tuple[Side, Side] | None = None  # * to scale to, pixels; of a scale that draws its own
    data_seed: Seed | None = None  # * of a scale that draws its data
    runs: Words | None = None  # default: all
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] | None = None
    device: Device | None = None
    gpus: Annotated[int, BeforeValidator(_whole), Field(ge=1, le=1024)] | None = None  # for one run together
    micro_batch: Batch | None = None  # images of a process that have activations at a time
    compile: bool | None = None  # backbone and neck in training, by torch.compile
    logger: Logger | None = None  # event files of each training, too
    weights: Literal["imagenet", "random", "released"] | None = None  # *
    iterations: Count | None = None  # * stop each training after this many
    batch_size: Batch | None = None  # *
    lr: Rate | None = None  # *
    schedule: Share | None = None  # * times the epochs and milestones of each run
    precision: Precision | None = None  # *
    val_images: Count | None = None  # * evaluate on the first images only, this many
    # * values of the configurations of runs, by run and dotted key (`tood.study.variation`)
    options: dict[Word, dict[Word, Any]] | None = None
    near: Words | None = None  # released files of another recipe that are taken all the same
    released: File | None = None  # declares released files instead of experiments/released.yaml
    fresh: bool | None = None  # train also what has a record
    test2017: bool | None = None  # `snakemake download` fetches the images of COCO's test set too


# Those marked *
INCOMPARABLE = (
    *("classes", "image_size", "data_seed", "weights", "iterations", "batch_size", "lr", "schedule"),
    *("precision", "val_images", "options"),
)
OF_TRAININGS = (
    *("classes", "iterations", "batch_size", "lr", "schedule", "precision", "gpus", "micro_batch"),
    *("compile", "logger", "options"),
)
# What a call may change of the resources that a scale gives its trainings.
RESOURCES = set(Study.model_fields) & set(Resources.model_fields)
# They say which seeds one call trains, where and how, and nothing of what the study is.
OF_A_CALL = {"seeds", "device", "logger", "fresh", "test2017"} | RESOURCES


def parse_options(words: Iterable[str]) -> dict[str, str | None]:
    """`KEY=VALUE` words of a command line, each value as it was typed; None for an empty one.

    Quotes around a value are no part of it, as for Snakemake.
    """
    options: dict[str, str | None] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise ExperimentError(f"--config {word}: must be KEY=VALUE")
        value = _unquoted(value)
        # Of variations there may be several words; of any other key the last one counts, as for Snakemake.
        before = options.get(key) if key == "options" and value else None
        options[key] = f"{before},{value}" if before else value or None
    return options


def parse_study(options: Mapping[str, Any]) -> Study:
    """The options of a call, checked one by one.

    Args:
        options: as `tood.study.plan.Plan` takes them.
    """
    for key in options:
        if key not in Study.model_fields:
            raise ExperimentError(f"--config {key}: unknown option; {there_are(key, Study.model_fields)}")
    values = {}
    for key, value in options.items():
        try:
            values[key] = _read(key, value)
        except ValueError as error:
            raise ExperimentError(f"{_typed(key, value)}: {error}") from None
    try:
        return Study(**values)
    except ValidationError as error:
        first = error.errors()[0]
        problem = first["msg"].removeprefix("Value error, ")
        key = str(first["loc"][0])
        raise ExperimentError(f"{_typed(key, options[key])}: {problem}; see docs/configuration.md") from None


def _read(key: str, value: Any) -> Any:
    """The value of an option, in parts where it has some; a ValueError says how to write it."""
    if key in _READERS and value is not None:
        value = _READERS[key](value)
    if _is_special(value):
        raise ValueError(_SPECIAL_HINT)
    return value


def _split(value: Any) -> Any:
    """File and folder of a split in COCO's layout; of another layout the word as it is."""
    if not isinstance(value, str):
        return value
    parts = value.split(":")
    if layout_of(value) != "YOLO" and (len(parts) > 1 or value.endswith(".json")):
        if len(parts) != 2 or not all(parts):
            raise ValueError(
                "write ANNOTATIONS:IMAGES, a file and a folder in data_root, such as "
                "annotations/train.json:images"
            )
        return parts
    if len(parts) > 2 or not all(parts):
        raise ValueError("write the YAML file, or FILE:KEY, such as data.yaml:test")
    return value


def _sides(value: Any) -> Any:
    """Both sides of images; a single number is that of both."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return value
    sides = re.split("[,x ]+", str(value).strip("[] "))
    return sides * 2 if len(sides) == 1 else sides


def _names(value: Any) -> Any:
    """Names between commas, which may have spaces."""
    if not isinstance(value, str):
        return value
    parts = (part.strip() for part in value.strip("[]").split(","))
    return [_unquoted(part) for part in parts if part]


def _words(value: Any) -> Any:
    """Words between commas or spaces; a single value is a list of itself."""
    if isinstance(value, str):
        return [_unquoted(part) for part in re.split("[, ]+", value.strip("[]")) if part]
    return value if isinstance(value, list | tuple) else [value]


# Of options whose words have parts
_READERS: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(["train", "val"], _split),
    **dict.fromkeys(["runs", "seeds", "near"], _words),
    **{"image_size": _sides, "classes": _names, "options": parse_variations},
}


def _unquoted(value: str) -> str:
    quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    return value[1:-1] if quoted else value


def _is_special(value: object) -> bool:
    """Whether the text of an option, or of a part of one, has a meaning for a shell or for Snakemake."""
    if isinstance(value, dict):
        return any(map(_is_special, [*value, *value.values()]))
    if isinstance(value, list | tuple):
        return any(map(_is_special, value))
    return isinstance(value, str | Path) and _SPECIAL.search(str(value)) is not None


def _typed(key: str, value: object) -> str:
    """An option as a message shows it: in printable characters, and not all of a long value."""
    text = value if isinstance(value, str) else repr(value)
    shown = "".join(
        character if character.isprintable() else repr(character)[1:-1] for character in text[:100]
    )
    return f"--config {key}={shown}{'...' * (len(text) > 100)}"


def check_data(study: Study, scale: Scale) -> None:
    """That the data of a study are one thing, and its own."""
    for key in ("data_root", "train", "val", "test"):
        if _is_special(getattr(scale, key)):
            raise ExperimentError(f"scale {scale.name!r}: {key}: {_SPECIAL_HINT}")
    draws = scale.drawing is not None
    if (study.train or study.val) and not study.data_root:
        raise ExperimentError("--config train, val: name files of a dataset of yours; add data_root=PATH")
    if study.classes and not study.data_root:
        raise ExperimentError("--config classes: names classes of a dataset of yours; add data_root=PATH")
    if draws and study.data_root and study.name is None:
        raise ExperimentError(
            f"--config data_root: scale {scale.name!r} draws its own data, and numbers on yours are "
            "not those of the scale; give the study a name for its results: --config name=NAME"
        )
    if draws and study.data_root and study.data_seed is not None:
        raise ExperimentError("--config data_seed: nothing is drawn with data_root; omit one of them")
    if study.data_seed is not None and not draws:
        raise ExperimentError(f"--config data_seed: scale {scale.name!r} draws no data; omit it")
    if study.image_size and not (draws and study.data_root):
        raise ExperimentError(
            "--config image_size: fits the detectors of a scale that draws its own data to yours, so it "
            "needs scale=mini or smoke, and data_root=PATH"
        )
    if study.image_size and not SMALLEST <= min(study.image_size) <= max(study.image_size) <= LARGEST:
        raise ExperimentError(
            f"--config image_size={','.join(map(str, study.image_size))}: sides are between {SMALLEST} "
            f"and {LARGEST} pixels; choose one near the size of your images, smaller to be faster"
        )
