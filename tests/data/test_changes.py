"""Whether data are still what was checked: by what the check saw, and by no clock."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tood.data.synthetic import DrawingSpec, generate
from tood.data.validation import Split, annotations_as_checked, changed_since_check, check_dataset

TRAIN = Split("annotations/instances_train2017.json", "train2017")
VAL = Split("annotations/instances_val2017.json", "val2017")
FIRST, SECOND = "train2017/000000000001.png", "train2017/000000000002.png"
DECADE = 10 * 365 * 86_400


@pytest.fixture
def root(tmp_path) -> Path:
    root = tmp_path / "coco"
    generate(root, DrawingSpec(seed=0, train_images=6, val_images=3, image_size=(48, 32)))
    return root


def checked(root: Path, train: Split = TRAIN, val: Split = VAL) -> Path:
    """The manifest of a dataset."""
    manifest = root.parent / "manifest.json"
    manifest.write_text(json.dumps({"root": str(root), **check_dataset(root, train, val)}))
    return manifest


def shift(path: Path, seconds: float) -> None:
    time = path.stat().st_mtime + seconds
    os.utime(path, (time, time))


def test_nothing_was_checked(root):
    assert changed_since_check(root.parent / "manifest.json") is None


@pytest.mark.parametrize("seconds", [-5 * DECADE, -1, 0, 3600, DECADE])
def test_times_of_images_may_be_any(root, seconds):
    """Of a camera or a server whose clock is ahead, or of a copy that kept old times."""
    for path in root.rglob("*.*"):
        shift(path, seconds)
    manifest = checked(root)
    assert changed_since_check(manifest) is None
    for clock in (-DECADE, 2 * DECADE):  # of the machine that checked
        shift(manifest, clock)
        assert changed_since_check(manifest) is None


CHANGES: dict[str, Callable[[Path], object]] = {
    "written again": lambda path: path.write_bytes(path.read_bytes()),
    "an older file in its place": lambda path: shutil.copy2(path.with_name(Path(SECOND).name), path),
    "an older time": lambda path: shift(path, -DECADE),
    "another size under the same time": lambda path: grow(path),
    "deleted": Path.unlink,
    "a link to nothing": lambda path: (path.unlink(), path.symlink_to("nowhere.png")),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


def grow(path: Path) -> None:
    state = path.stat()
    path.write_bytes(path.read_bytes() + b"\0")
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_an_image_that_is_not_as_it_was_is_named(root, change):
    shift(root / SECOND, -DECADE)
    manifest = checked(root)
    assert changed_since_check(manifest) is None
    change(root / FIRST)
    assert changed_since_check(manifest) == root / FIRST


def test_images_that_changed_places(root):
    manifest = checked(root)
    first, second = root / FIRST, root / SECOND
    first.rename(root / "other.png")
    second.rename(first)
    (root / "other.png").rename(second)
    assert changed_since_check(manifest) in (first, second)


def test_other_files_in_the_folder_do_not_matter(root):
    """Such as those of file managers, and images that no annotation file lists."""
    manifest = checked(root)
    for name in (".DS_Store", "Thumbs.db", "of_tomorrow.png", "notes/more.txt"):
        (root / "train2017" / name).parent.mkdir(exist_ok=True)
        (root / "train2017" / name).touch()
    (root / "train2017/link.png").symlink_to(root / "nowhere.png")
    assert changed_since_check(manifest) is None


def test_images_in_folders_and_behind_links(root):
    content = json.loads((root / TRAIN.annotations).read_text())
    names = ["./000000000001.png", "deep/er/000000000002.png", "linked/000000000003.png", "000000000004.png"]
    (root / "train2017/deep/er").mkdir(parents=True)
    (root / "elsewhere").mkdir()
    (root / "train2017/linked").symlink_to(root / "elsewhere")
    for image, name in zip(content["images"], names, strict=False):
        (root / "train2017" / image["file_name"]).rename(root / "train2017" / name)
        image["file_name"] = name
    (root / TRAIN.annotations).write_text(json.dumps(content))
    manifest = checked(root)
    assert changed_since_check(manifest) is None
    shift(root / "elsewhere/000000000003.png", -5)
    assert changed_since_check(manifest) == root / "train2017" / names[2]


def test_both_splits_may_share_a_folder(root):
    for path in (root / "val2017").iterdir():
        path.rename(root / "train2017" / path.name)
    manifest = checked(root, val=Split(VAL.annotations, TRAIN.images))
    assert changed_since_check(manifest) is None
    (root / FIRST).unlink()
    assert changed_since_check(manifest) == root / FIRST


def test_of_annotations_the_content_decides(root):
    """The workflow checks new ones by itself, so images that came with them are no reason to stop."""
    manifest = checked(root)
    content = json.loads(manifest.read_text())
    files = {"train": TRAIN.annotations, "val": VAL.annotations}
    for seconds in (0, -DECADE, 2 * DECADE):
        shift(root / TRAIN.annotations, seconds)
        assert annotations_as_checked(content, root, files)
    (root / FIRST).unlink()
    assert changed_since_check(manifest) == root / FIRST
    state = (root / TRAIN.annotations).stat()
    (root / TRAIN.annotations).write_text((root / TRAIN.annotations).read_text() + " ")
    os.utime(root / TRAIN.annotations, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert not annotations_as_checked(content, root, files)
    assert changed_since_check(manifest) is None
    assert not annotations_as_checked(content, root, {"train": VAL.annotations})
    assert annotations_as_checked(content, root, {"train": "absent.json"})


def test_a_manifest_that_kept_nothing_of_the_files(root):
    """Of an older version: there is nothing to compare images with; of annotations it has the SHA-256."""
    manifest = checked(root)
    content = json.loads(manifest.read_text())
    del content["seen"], content["notes"], content["left_out"]
    manifest.write_text(json.dumps(content))
    (root / FIRST).unlink()
    assert changed_since_check(manifest) is None
    files = {"train": TRAIN.annotations, "val": VAL.annotations}
    assert annotations_as_checked(content, root, files)
    (root / TRAIN.annotations).write_text("[]")
    assert not annotations_as_checked(content, root, files)
