"""Provenance says what made a result, and whether it would come out the same now."""

import json
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest

from tood.ledger import provenance
from tood.ledger.provenance import describe_training, is_stale, measured_digests, revision
from tood.runtime.files import write_json
from tood.study.plan import Plan

SETTINGS = Plan({"name": "x", "iterations": 3}).settings("tood_af")
MANIFEST = {
    "root": "some/where",
    "categories": [{"id": 1, "name": "disc"}],
    "splits": {
        name: {"images": 5, "annotations": 9, "sha256": name, "image_digest": f"images of {name}"}
        for name in ("train", "val")
    },
}
CALL = dict(settings=SETTINGS, seed=4, config={"lr": 0.01}, manifest=MANIFEST, code="c0de", device="cpu")


def test_a_training_at_the_start_and_at_the_end():
    start = describe_training(**CALL, gpus=0)
    assert json.loads(json.dumps(start)) == start
    assert (start["run"], start["seed"], start["settings"]) == ("tood_af", 4, SETTINGS)
    assert start["data"]["val"] == {"images": 5, "sha256": "val", "image_digest": "images of val"}
    assert start["packages"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert re.match(r"\d+\.\d+", start["packages"]["onedl-mmdetection"])
    assert start["hardware"]["cores"] >= 1
    assert start["hardware"]["memory_mb"] > 100
    assert not {start[key] for key in ("finished", "seconds", "gpu_hours", "attempts")} - {None}

    summary = {"seconds": 5400.0, "peak_memory_mb": 123, "attempt": 2}
    end = describe_training(**CALL, gpus=4, summary=summary)
    assert (end["gpu_hours"], end["attempts"], end["peak_memory_mb"]) == (6.0, 2, 123)
    assert end["finished"] >= end["started"] == start["started"]
    assert end["digests"] == start["digests"]
    assert describe_training(**CALL, gpus=0, summary=summary)["gpu_hours"] == 0


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({}, []),
        ({"seed": 5, "device": "another", "config": {"lr": 0.02}}, []),  # these are in no digest
        ({"manifest": {**MANIFEST, "root": "elsewhere"}}, []),
        ({"code": "c0d3"}, ["code"]),
        ({"settings": SETTINGS | {"iterations": 4}}, ["settings"]),
        ({"manifest": MANIFEST | {"categories": []}, "code": "c0d3"}, ["code", "data"]),
    ],
)
def test_stale_is_what_differs(change, parts):
    expected = describe_training(**CALL, gpus=0)["digests"]
    assert is_stale(describe_training(**CALL | change, gpus=1), expected) == parts
    assert is_stale({}, expected) == ["code", "settings", "data"]


def test_a_measurement_takes_on_the_digests_of_the_training(tmp_path):
    assert measured_digests(tmp_path / "model.pth", "how") == {"evaluation": "how"}
    made = describe_training(**CALL, gpus=0)
    write_json(tmp_path / "provenance.json", made)
    assert measured_digests(tmp_path / "model.pth", "how") == {**made["digests"], "evaluation": "how"}


def test_gpus_are_named_as_the_loaded_torch_sees_them(monkeypatch):
    cuda = SimpleNamespace(
        is_available=lambda: True, device_count=lambda: 2, get_device_name=lambda index: f"H200 {index}"
    )
    backends = SimpleNamespace(
        cudnn=SimpleNamespace(allow_tf32=False),
        cuda=SimpleNamespace(matmul=SimpleNamespace(allow_tf32=True)),
    )
    torch = SimpleNamespace(cuda=cuda, version=SimpleNamespace(cuda="12.8"), backends=backends)
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setattr(provenance, "_output", lambda program, *_: program and "570.1\n570.1")
    found = describe_training(**CALL, gpus=4)["hardware"]  # two machines of two
    assert (found["gpu_names"], found["driver"], found["cuda"]) == (["H200 0", "H200 1"], "570.1", "12.8")
    assert found["tf32"] == {"convolutions": False, "products": True}
    on_cpu = describe_training(**CALL, gpus=0)["hardware"]
    assert (on_cpu["gpu_names"], on_cpu["tf32"]) == ([], None)


def test_revision(monkeypatch, tmp_path):
    monkeypatch.setattr(provenance, "REPOSITORY", tmp_path)
    assert "not a git repository" in revision()["unknown"]
    assert str(tmp_path) not in revision()["unknown"]  # records are passed on

    def git(*arguments):
        author = ("-c", "user.name=A", "-c", "user.email=a@b.c")
        done = subprocess.run(
            ["git", *author, "-C", tmp_path, *arguments], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    git("init", "-q")
    assert "no commit yet" in revision()["unknown"]
    record = tmp_path / "results/mini/runs/tood_af/seed0.json"
    record.parent.mkdir(parents=True)
    for path in (tmp_path / "file", record):
        path.write_text("1")
    git("add", ".")
    git("commit", "-qm", "Begin")
    assert revision() == {"commit": git("log", "-1", "--format=%H"), "dirty": False}
    (tmp_path / "untracked").write_text("1")
    assert not revision()["dirty"]
    record.write_text("2")  # by the study itself
    assert not revision()["dirty"]
    (tmp_path / "file").write_text("2")
    assert revision()["dirty"]
    # As in a container that mounts another user's checkout; git itself offers the switch to its tests.
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert "belongs to another user" in revision()["unknown"]
    assert "safe.directory" in revision()["unknown"]
    monkeypatch.setenv("PATH", str(tmp_path))
    assert revision() == {"unknown": "git is not installed"}


def test_what_the_check_says_of_the_data_travels_with_a_result():
    made = describe_training(**CALL | {"manifest": MANIFEST | {"notes": ["so and so"]}}, gpus=0)
    assert made["data"]["notes"] == ["so and so"]
    assert made["digests"] == describe_training(**CALL, gpus=0)["digests"]
