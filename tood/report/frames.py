"""What is kept of studies as data frames, for notebooks and figures of one's own."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pandas as pd

from tood.ledger.records import Record
from tood.report.kept import records_of, trained
from tood.runtime.failures import InputError
from tood.study.paths import METRICS, RESULTS

# Of a record's state and provenance
_STATE = ("state", "epochs", "iterations", "images_per_second")
_PROVENANCE = ("seconds", "peak_memory_mb", "started", "finished")
_HARDWARE = ("device", "cpu", "gpus")


def metrics(*studies: str, results: Path = RESULTS) -> pd.DataFrame:
    """Every value in `metrics.csv` of some studies, a row for each run, seed and metric.

    Args:
        *studies: names, such as "mini".
        results: folder of the results; the default is relative to the working directory.

    Raises:
        InputError: a study has no `metrics.csv`.
    """
    for study in studies:
        if not (results / study / METRICS).is_file():
            raise InputError(
                f"{results / study / METRICS} is not there; `tood report --name {study}` writes it"
            )
    return pd.concat([trained(results, study).assign(study=study) for study in studies], ignore_index=True)


def epochs(*studies: str, results: Path = RESULTS) -> pd.DataFrame:
    """Losses and positives of each epoch of every training that has a record, a row for each epoch.

    Args:
        *studies: names, such as "mini".
        results: folder of the results.

    Raises:
        InputError: a study has no record.
    """
    return _of_records(studies, results, lambda record: record.epochs)


def trainings(*studies: str, results: Path = RESULTS) -> pd.DataFrame:
    """Every training that has a record: state, time, speed, memory and machine, a row for each.

    Args:
        *studies: names, such as "mini".
        results: folder of the results.

    Raises:
        InputError: a study has no record.
    """
    return _of_records(studies, results, lambda record: [_summary(record)])


def _summary(record: Record) -> dict:
    provenance = record.provenance
    hardware = provenance.get("hardware", {})
    return (
        {name: record.files["state.json"].get(name) for name in _STATE}
        | {name: provenance.get(name) for name in _PROVENANCE}
        | {name: hardware.get(name) for name in _HARDWARE}
        | {"lr": provenance["settings"].get("train", {}).get("lr")}
        | {"commit": provenance.get("git", {}).get("commit")}
    )


def _of_records(
    studies: Iterable[str], results: Path, rows_of: Callable[[Record], Iterable[Mapping]]
) -> pd.DataFrame:
    """Rows of each record, with the study, run and seed that they are of."""
    rows = []
    for study in studies:
        records = records_of(results, study)
        if not records:
            raise InputError(f"{results / study / 'runs'} has no record; the workflow writes them")
        for record in records:
            of = {"study": study, "run": record.run, "seed": record.seed}
            rows += [of | dict(row) for row in rows_of(record)]
    return pd.DataFrame(rows)
