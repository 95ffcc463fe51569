"""`manifest.json`: what the check of a dataset found, which every job of a study reads."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field

from tood.runtime.files import read_json


class _Category(BaseModel):
    id: int
    name: str


class _CheckedSplit(BaseModel):
    annotation_file: str
    image_folder: str
    images: int
    sha256: str
    image_digest: str


class _Seen(BaseModel):
    annotations: dict[str, list]
    images: dict[str, Any]


class _Manifest(BaseModel):
    root: str
    categories: list[_Category]
    splits: dict[str, _CheckedSplit]
    # An older check did not write these.
    thinnest: dict[str, Annotated[list[str | int], Field(min_length=3, max_length=3)]] = {}
    notes: list[str] = []
    left_out: dict[str, dict[str, int]] = {}
    seen: _Seen | None = None


def read_manifest(path: Path) -> dict[str, Any]:
    """The result of `tood.data.validation.check_dataset`, and the dataset's `root`.

    Raises:
        DamagedFile: the content is not what the check writes.
    """
    return read_json(path, _Manifest, f"delete {path}, and the next call checks the data again")
