"""Jobs in an image: what Snakemake starts with `--sdm apptainer`, by a program in apptainer's place."""

import os
import sys
from pathlib import Path

import pytest

MANIFEST = "work/smoke/manifest.json"  # after two jobs: the data are drawn, and checked
# It writes down its arguments before the image, and runs the rest where it is.
APPTAINER = """#!/bin/sh
if [ "$1" = --version ]; then echo apptainer version 1.4.1; exit; fi
while [ "$1" != "$TOOD_IMAGE" ]; do line="$line $1"; shift; done
echo "$line" >> "$STARTED"
shift
PATH=$IN_IMAGE:$PATH exec "$@"
"""


@pytest.fixture
def environment(tmp_path) -> dict[str, str]:
    program, image = tmp_path / "bin" / "apptainer", tmp_path / "tood.sif"
    program.parent.mkdir()
    program.write_text(APPTAINER)
    program.chmod(0o755)
    image.touch()
    return {
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "TOOD_IMAGE": str(image),
        "STARTED": str(tmp_path / "started"),
        "IN_IMAGE": str(Path(sys.executable).parent),
    }


def test_every_job_starts_in_the_image(workspace, environment):
    call = ("--cores", "1", "--sdm", "apptainer", "--apptainer-args", "--nv --bind /data", MANIFEST)
    outcome = workspace.run("snakemake", *call, **environment)
    assert outcome.returncode == 0, outcome.stdout
    started = Path(environment["STARTED"]).read_text().splitlines()
    assert len(started) == 2
    for line in started:
        assert f"exec --home {workspace.path} --nv --bind /data" in line
    assert (workspace.path / MANIFEST).is_file()


def test_without_the_option_the_image_is_not_used(workspace, environment):
    outcome = workspace.run("snakemake", "--cores", "1", MANIFEST, **environment)
    assert outcome.returncode == 0, outcome.stdout
    assert not Path(environment["STARTED"]).exists()
