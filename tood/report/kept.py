"""What is kept of studies below `results/`, read for the pages and for the checks of claims."""

import functools
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from tood.ledger.code_digest import training_code
from tood.ledger.records import Record, read_record
from tood.report.evidence import Checked, Evidence, judge
from tood.report.readings import NO_READINGS, READINGS
from tood.report.tables import NO_METRICS, as_metrics, joined, read_complexity
from tood.runtime.files import DamagedFile
from tood.study.claims import Claim, load_checks, load_claims
from tood.study.declarations import Table, load_runs, load_tables
from tood.study.paths import COMPLEXITY, METRICS, RESULTS, StudyPaths
from tood.study.scales import load_scale, scale_names

_NEEDED = ("run", "seed", "metric", "value", "stale")  # columns; without others a value is used all the same


class Judged(NamedTuple):
    """The claims, what a study says of them, and what that rests on."""

    claims: list[Claim]
    tables: dict[str, Table]
    evidence: Evidence
    judged: pd.DataFrame  # of `tood.report.evidence.judge`


def kept(results: Path, study: str) -> pd.DataFrame:
    """The measured values of a study, with the columns of `metrics.csv`.

    Parameters and FLOPs are those of the paper-sized models at every scale. They are shown with the scale
    that is comparable with the paper only, from `complexity.csv`, which needs no training.

    Raises:
        DamagedFile: a file is no table of metrics.
    """
    sizes = [_sizes(results)] if _comparable(study) else []
    return joined([trained(results, study), *sizes])


def kept_evidence(results: Path, study: str) -> Evidence:
    """What the claims are judged by, of a study that has the name of its scale.

    Raises:
        DamagedFile: a file is no table of metrics or readings.
    """
    metrics = joined([trained(results, study), _sizes(results)])
    return Evidence(study, metrics, _comparable(study), kept_readings(results, study), checks(results, study))


def judged_study(results: Path, study: str) -> Judged:
    """The claims judged by what is kept of a study; raises as `kept_evidence`."""
    runs = load_runs()
    tables = load_tables(runs=runs)
    claims, evidence = load_claims(runs, tables), kept_evidence(results, study)
    return Judged(claims, tables, evidence, judge(claims, evidence, tables))


def checks(results: Path, study: str) -> list[Checked]:
    """What the studies that check the claims of a study have, if anything."""
    return [
        Checked(
            check.name,
            check.study,
            check.runs,
            trained(results, check.study),
            kept_readings(results, check.study),
        )
        for check in load_checks(study, load_runs())
    ]


def kept_readings(results: Path, study: str) -> pd.DataFrame:
    """Table 6 of a study under every reading, with the columns of `READINGS`; empty without the file."""
    path = _of(results, StudyPaths(study).readings)
    if not path.is_file():
        return NO_READINGS
    try:
        return pd.read_csv(path)[READINGS]
    except (ValueError, KeyError) as error:
        raise DamagedFile(f"{path}: no table of readings ({error}); call the workflow again") from error


def records_of(results: Path, study: str) -> list[Record]:
    """Every record of a study."""
    records = (read_record(path) for path in sorted((results / study / "runs").glob("*/seed*.json")))
    return [record for record in records if record]


def code_changed(record: Record) -> bool:
    """Whether the code of a training differs from the present code."""
    return record.provenance["digests"]["code"] != _code(record.run)


@functools.cache  # records of several seeds and studies share it
def _code(run: str) -> str:
    declared = load_runs().get(run)
    return training_code(declared.config, declared.options) if declared else ""


def trained(results: Path, study: str) -> pd.DataFrame:
    """The measured values that belong to trainings of a study, as `kept`; empty without the file.

    Raises:
        DamagedFile: it is no table of metrics.
    """
    path = results / study / METRICS
    if not path.is_file():
        return NO_METRICS
    try:
        metrics = pd.read_csv(path)
        if lacking := [name for name in _NEEDED if name not in metrics]:
            raise ValueError(f"without {', '.join(lacking)}")
        metrics = as_metrics(metrics)
    except (ValueError, TypeError) as error:
        raise DamagedFile(f"{path}: no table of metrics ({error}); call the workflow again") from error
    return metrics[metrics["seed"].notna()]


def _sizes(results: Path) -> pd.DataFrame:
    return read_complexity(_of(results, COMPLEXITY))


def _of(results: Path, path: Path) -> Path:
    """A path below `RESULTS` in another folder."""
    return results / path.relative_to(RESULTS)


def _comparable(study: str) -> bool:
    return study in scale_names() and load_scale(study).comparable
