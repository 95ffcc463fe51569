"""The declared experiments: runs, the paper's tables, and which run feeds which cell.

`experiments/runs.yaml` declares every training run once. `experiments/tables/*.yaml` hold the paper's values
and name the run of each row. Everything else follows from these two. Each start of the workflow reads them,
so this module imports little.
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from tood.runtime.failures import InputError
from tood.runtime.text import did_you_mean
from tood.study.paths import EXPERIMENTS

RUNS = EXPERIMENTS / "runs.yaml"
TABLES = EXPERIMENTS / "tables"

ImageSet = Literal["val2017", "test-dev2017"]  # of COCO; the paper calls the first one minival

_Yaml = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C parser is more than ten times as fast


class ExperimentError(InputError):
    """A declaration that cannot be used; the message names the file, the key and gives a hint."""


class Declaration(BaseModel):
    """Content of a file under `experiments/`: unknown keys are errors, numbers finite, nothing changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


_Declared = TypeVar("_Declared", bound=Declaration)
_Name = TypeVar("_Name", bound=Hashable)


class Run(Declaration):
    """One training run: a method, its backbone and its schedule, the same at every scale."""

    id: Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]
    title: str
    backbone: str
    epochs: int
    milestones: tuple[int, ...] = ()  # filled in from the schedules
    config: Annotated[str, Field(pattern=r"^\w[\w-]*\.py$")]  # file in experiments/configs
    options: dict[str, Any] = {}  # deviations from the config, by dotted keys
    weights: str = "resnet50"  # initial weights of the backbone: file stem under weights/
    reconstruction: bool = False  # of a method whose code was not published: its result reproduces nothing
    in_paper: bool = True  # one of the paper's runs; others are trained where a scale or a call names them
    source: str | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.reconstruction and "reconstruction" not in self.title.lower():
            raise ValueError("the title of a reconstruction must say so; write reconstruction into it")
        return self


class Row(Declaration):
    """One row of a table: its key columns, the run behind it and the paper's values."""

    key: dict[str, str]
    details: dict[str, str] = {}  # further columns, which do not tell rows apart
    run: str
    paper: dict[str, float | None] = {}  # None where the paper prints no value
    paper_set: ImageSet | None = None  # of this row's values, where it is not that of the table
    footnote: str | None = None


class Table(Declaration):
    """One table of the paper, or one of this suite; the rows of the latter have no `paper`."""

    name: str  # the file's stem, such as table3
    title: str
    caption: str
    keys: list[str]
    details: list[str] = []
    metrics: dict[str, str]  # metric -> format of its numbers, such as .1f
    paper_set: ImageSet | None = None  # images of the paper's values; None: it prints nothing or unsaid
    paper_range: dict[str, tuple[float, float]] = {}  # metric: least and most of all rows, where it says that
    footnotes_of: Literal["paper", "methods"] = "paper"  # a study of other data shows those of methods alone
    rows: list[Row]

    def label(self, row: Row) -> str:
        """The row's key columns in the table's order, such as `Anchor-free / TOOD`."""
        return " / ".join(row.key[column] for column in self.keys)

    @property
    def columns(self) -> list[str]:
        """Those with words: keys, then details."""
        return [*self.keys, *self.details]

    @property
    def printed(self) -> bool:
        """Whether the paper prints anything of this table."""
        return any(row.paper for row in self.rows)

    @field_validator("metrics")
    @classmethod
    def _formats(cls, metrics: dict[str, str]) -> dict[str, str]:
        for metric, spec in metrics.items():
            try:
                format(0.0, spec)
            except ValueError:
                raise ValueError(f"{spec!r} of {metric} formats no number; write one such as .1f") from None
        return metrics

    @model_validator(mode="after")
    def _rows_fit(self) -> Self:
        for row in self.rows:
            paper = self.metrics if self.printed else ()
            for field, columns in (("key", self.keys), ("details", self.details), ("paper", paper)):
                if given := set(getattr(row, field)) ^ set(columns):
                    raise ValueError(
                        f"the row of {row.run} has missing or unknown columns {sorted(given)}; "
                        f"its `{field}` must name exactly {list(columns)}"
                    )
        if twice := repeated(self.label(row) for row in self.rows):
            raise ValueError(f"two rows are called {twice!r}; make their keys differ")
        return self


class _Runs(Declaration):
    schedules: dict[int, tuple[int, ...]]
    runs: list[Run]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if twice := repeated(run.id for run in self.runs):
            raise ValueError(f"run {twice!r} is declared twice; remove or rename one")
        for run in self.runs:
            if run.milestones:
                raise ValueError(f"run {run.id!r}: milestones follow from epochs; remove them")
            if run.epochs not in self.schedules:
                raise ValueError(
                    f"run {run.id!r}: {run.epochs} epochs have no schedule; add one to `schedules` "
                    f"or use one of {sorted(self.schedules)}"
                )
        return self


def load_runs(path: Path = RUNS) -> dict[str, Run]:
    """All runs by id, in the order of the file, each with the milestones of its schedule."""
    declared = load_declared(_Runs, path)
    return {
        run.id: run.model_copy(update={"milestones": declared.schedules[run.epochs]}) for run in declared.runs
    }


def load_tables(directory: Path = TABLES, runs: Mapping[str, Run] | None = None) -> dict[str, Table]:
    """All tables by name (`table1` .. `table6`, `table_m`), checked against the runs."""
    runs = load_runs() if runs is None else runs
    tables = {}
    for path in sorted(Path(directory).glob("*.yaml")):
        table = load_declared(Table, path, name=path.stem)
        for row in table.rows:
            if row.run not in runs:
                raise ExperimentError(f"{path}: row {table.label(row)}: {unknown_run(row.run, runs)}")
        tables[table.name] = table
    fed = {row.run for table in tables.values() for row in table.rows}
    for run in runs.values():
        if run.id not in fed:
            raise ExperimentError(
                f"{directory}: run {run.id!r} feeds no row; name it in a table or remove the run"
            )
    return tables


def cells_of(run_id: str, tables: Mapping[str, Table]) -> list[str]:
    """The rows a run feeds, such as `Table 3: Anchor-free / TOOD`."""
    return [
        f"{table.title}: {table.label(row)}"
        for table in tables.values()
        for row in table.rows
        if row.run == run_id
    ]


def select_runs(
    names: Iterable[str] | None, runs: Mapping[str, Run], tables: Mapping[str, Table] | None = None
) -> list[Run]:
    """The runs of these names, a table's name standing for all of its runs; None: all of the paper's.

    Args:
        names: of runs and tables.
        runs: all there are, by id.
        tables: all there are, by name, if they were read before.

    Raises:
        ExperimentError: there is no run or table of a name.
    """
    if names is None:
        return [run for run in runs.values() if run.in_paper]
    names = list(names)
    if tables is None:  # they need not be read where all names are of runs
        tables = {} if set(names) <= set(runs) else load_tables(runs=runs)
    ids: list[str] = []
    for name in names:
        ids += [row.run for row in tables[name].rows] if name in tables else [name]
    if unknown := next((name for name in ids if name not in runs), None):
        raise ExperimentError(f"runs: {unknown_run(unknown, [*runs, *tables])}")
    return [runs[name] for name in dict.fromkeys(ids)]


def unknown_run(name: str, runs: Iterable[str]) -> str:
    """The message for an unknown run; it names similar ones."""
    return f"unknown run {name!r}; {did_you_mean(name, runs)}`tood runs` lists them"


def read_mapping(path: Path) -> dict:
    """The keys and values of a YAML file."""
    try:
        content = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_Yaml)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ExperimentError(f"{path}: cannot be read as YAML: {error}") from error
    if not isinstance(content, dict):
        raise ExperimentError(f"{path}: must hold keys and values, as the files beside it do")
    return content


def load_declared(
    model: type[_Declared], path: Path, content: dict | None = None, **fields: Any
) -> _Declared:
    """Validate one file against its model.

    Args:
        model: class of the result.
        path: file to read, named in messages.
        content: content of the file if it was read before.
        fields: values that are not in the file.
    """
    content = read_mapping(path) if content is None else content
    try:
        return model.model_validate({**content, **fields})
    except ValidationError as error:
        first = error.errors()[0]
        problem = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            problem = "unknown key; remove it or correct its spelling"
        place = "".join(f" {step}:" for step in _named(first["loc"], content))
        raise ExperimentError(f"{path}:{place} {problem}") from None


def _named(steps: Iterable[str | int], content: Any) -> list[str]:
    """The steps to a place in a file; an entry of a list is called by its id or run if it has one."""
    names = []
    for step in steps:
        try:
            content = content[step]
        except (KeyError, IndexError, TypeError):
            content = None
        entry = content if isinstance(step, int) and isinstance(content, dict) else {}
        names.append(str(entry.get("id") or entry.get("run") or step))
    return names


def repeated(names: Iterable[_Name]) -> _Name | None:
    """The first of the names that is there more than once; None if none is."""
    return next((name for name, count in Counter(names).items() if count > 1), None)
