"""Which studies there are in this folder, by the files that calls of the workflow have left."""

from pathlib import Path

from tood.study.paths import RESULTS, SWEEPS, WORK, StudyPaths


def called_studies() -> dict[str, Path]:
    """The file of options of each study that was called here, the last call first."""
    files = sorted(_of_all("options"), key=lambda path: path.stat().st_mtime, reverse=True)
    return {path.parent.relative_to(WORK).as_posix(): path for path in files}


def recorded_studies() -> dict[str, Path]:
    """The declaration of each study that has records here."""
    return {path.parent.relative_to(RESULTS).as_posix(): path for path in sorted(_of_all("declaration"))}


def any_study() -> bool:
    """Whether this folder has a study: a call, a record, checked data, or results."""
    records = _of_all("records", "*", "seed*.json")
    return bool(records) or any(map(_of_all, ("options", "declaration", "manifest", "metrics")))


def studies_with(run_id: str) -> list[str]:
    """The studies that have a training or a record of a run, by name."""
    names = {
        folder.parents[1].relative_to(root).as_posix()
        for kind, root in (("runs", WORK), ("records", RESULTS))
        for folder in _of_all(kind, run_id)
    }
    return sorted(names)


def _of_all(kind: str, *below: str) -> list[Path]:
    """A file or folder that studies have, by its name in `StudyPaths`, or what is below it."""
    patterns = (getattr(StudyPaths(name), kind).joinpath(*below) for name in ("*", f"{SWEEPS}/*"))
    return [path for pattern in patterns for path in Path().glob(str(pattern))]
