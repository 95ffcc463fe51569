"""Which studies there are in this folder, by the files that calls of the workflow have left."""

from pathlib import Path

from tood.study.paths import RESULTS, SWEEPS, WORK, StudyPaths


def called_studies() -> dict[str, Path]:
    """The file of options of each study that was called here, the last call first."""
    files = [path for name in ("*", f"{SWEEPS}/*") for path in Path().glob(str(StudyPaths(name).options))]
    files.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    return {path.parent.relative_to(WORK).as_posix(): path for path in files}


def recorded_studies() -> dict[str, Path]:
    """The declaration of each study that has records here."""
    files = [path for name in ("*", f"{SWEEPS}/*") for path in Path().glob(str(StudyPaths(name).declaration))]
    return {path.parent.relative_to(RESULTS).as_posix(): path for path in sorted(files)}


def studies_with(run_id: str) -> list[str]:
    """The studies that have a training or a record of a run, by name."""
    found = set()
    for name in ("*", f"{SWEEPS}/*"):
        paths = StudyPaths(name)
        for runs, root in ((paths.runs, WORK), (paths.records, RESULTS)):
            for folder in Path().glob(str(runs / run_id)):
                found.add(folder.parents[1].relative_to(root).as_posix())
    return sorted(found)
