"""One finished study for all files that look at one, made by the first worker that needs it."""

from pathlib import Path

import pytest
from filelock import FileLock
from helpers.tiny_study import CALL, COMPLEXITY


@pytest.fixture(scope="session")
def study(new_workspace, tmp_path_factory, worker_id):
    """The study `tiny` as a user makes it; tests read it, or change a copy."""
    workspace = new_workspace()
    base = tmp_path_factory.getbasetemp()
    note = (base if worker_id == "master" else base.parent) / "study"
    with FileLock(note.with_suffix(".lock")):
        if note.exists():
            return type(workspace)(Path(note.read_text()))
        complexity = workspace.path / "results/paper/complexity.csv"
        complexity.parent.mkdir(parents=True)
        complexity.write_text(COMPLEXITY)
        outcome = workspace.run_alone("snakemake", *CALL)
        assert outcome.returncode == 0, outcome.stdout
        (workspace.path / "printed.txt").write_text(outcome.stdout)
        note.write_text(str(workspace.path))
    return workspace
