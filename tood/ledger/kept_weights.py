"""Weights that are kept beside a record, for runs that a reader wants to look at without training.

A record holds the checksum of its training's weights. So a file beside it is known to be theirs.
"""

import shutil
from pathlib import Path

from tood.data.seen import file_digest
from tood.ledger.records import read_record
from tood.study.declarations import ExperimentError
from tood.study.paths import StudyPaths
from tood.study.plan import Training


def beside(record: Path) -> Path:
    """Where the weights of a record are kept, if they are: seed0.pth beside seed0.json."""
    return record.with_suffix(".pth")


def kept_weights(place: Path) -> Path | None:
    """The weights kept beside a record; None if there are none.

    Args:
        place: of the record, which is read only if there are weights.

    Raises:
        ExperimentError: the file is not what the record was measured on.
    """
    path = beside(place)
    if not path.is_file():
        return None
    record = read_record(place)
    if record is None or record.weights != file_digest(path):
        raise ExperimentError(
            f"{path}: not the weights that {place.name} was measured on, by their checksum; restore it "
            f"(`git checkout -- {path}`), or delete it"
        )
    return path


def keep_weights(study: str, training: Training) -> Path:
    """Copy the weights of a trained run to its record.

    Args:
        study: name.
        training: run and seed.

    Raises:
        ExperimentError: there are no weights or no record, or the record is of other weights.
    """
    paths = StudyPaths(study)
    model, place = paths.run(*training).model, paths.record(*training)
    named = f"{training.run}, seed {training.seed}"
    if not model.is_file():
        raise ExperimentError(f"{named}: {model} is not there; only the machine that trained the run has it")
    record = read_record(place)
    if record is None:
        raise ExperimentError(
            f"{named}: {place} is not there; the workflow writes it when it measures the run"
        )
    if record.weights != file_digest(model):
        raise ExperimentError(
            f"{named}: {place} was not measured on {model}; call the workflow again, which measures it"
        )
    return Path(shutil.copyfile(model, beside(place)))
