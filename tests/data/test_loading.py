"""Sizes of training images, against mmdet's own transforms, and the threads of loading processes."""

import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing

import cv2
import pytest
import torch
from mmdet.registry import TRANSFORMS
from mmengine.registry import init_default_scope
from torch.utils.data import Dataset

from tood.data import loading
from tood.data.loading import LoaderError, SeededDataset, build_dataset, resizing
from tood.data.synthetic import DrawingSpec, generate
from tood.study.paths import REPOSITORY
from tood.study.plan import Plan

TRAIN = Plan({}).scale.train
SIZE = (1333, 800)


def transform(short_sides):
    init_default_scope("mmdet")
    return TRANSFORMS.build(resizing(SIZE, short_sides))


def drawn_sides(short_sides, count: int) -> list[int]:
    """Limits of the shorter side as the transform draws them."""
    built = transform(short_sides)
    draw = built._random_scale if hasattr(built, "_random_scale") else lambda: built._random_select()[0]
    scales = [draw() for _ in range(count)]
    assert {long for long, _ in scales} == {SIZE[0]}
    return [short for _, short in scales]


def test_a_range_gives_every_whole_number_of_it():
    assert set(drawn_sides({"range": (640, 646)}, 400)) == set(range(640, 647))


def test_choices_give_these_alone():
    assert set(drawn_sides({"choices": [640, 672, 800]}, 200)) == {640, 672, 800}


@pytest.mark.parametrize("nothing", [None, {}])
def test_without_either_the_size_is_that_of_testing(nothing):
    assert resizing(SIZE, nothing) == dict(type="Resize", scale=SIZE, keep_ratio=True)


@pytest.mark.parametrize(
    "wrong",
    [{"range": (480, 640, 800)}, {"choices": []}, {"sizes": [480]}, {"range": (1, 2), "choices": [3]}],
)
def test_anything_else_is_refused_by_its_key(wrong):
    with pytest.raises(ValueError, match=r"^input.train_short_sides is .*range=\(low, high\) or choices"):
        resizing(SIZE, wrong)


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    root = tmp_path_factory.mktemp("squares")
    generate(root, DrawingSpec(seed=0, train_images=40, val_images=2, image_size=(64, 64)))
    return root


def dataset_of(root, **options):
    names = [c["name"] for c in json.loads((root / TRAIN.annotations).read_text())["categories"]]
    return build_dataset(root, *TRAIN, names, (64, 64), **options)


def test_images_are_those_of_mmdets_own_loader(real_images):
    """Of JPEG of 8 bits, with and without a flip; trainings see the very same pixels as mmdet's."""
    init_default_scope("mmdet")
    split = Plan({"scale": "paper"}).scale.val
    names = [c["name"] for c in json.loads((real_images / split.annotations).read_text())["categories"]]
    ours = build_dataset(real_images, *split, names, SIZE, flip=None)
    theirs = build_dataset(real_images, *split, names, SIZE, flip=None)
    theirs.pipeline.transforms[0] = TRANSFORMS.build(dict(type="LoadImageFromFile"))
    for index in range(min(len(ours), 9)):
        assert torch.equal(ours[index]["inputs"], theirs[index]["inputs"])
        assert ours[index]["data_samples"].metainfo == theirs[index]["data_samples"].metainfo


def test_images_of_a_training_differ_in_size_and_boxes_with_them(squares):
    dataset = dataset_of(squares, flip=0.0, short_sides={"range": (32, 64)})
    sides = set()
    for index in range(20):
        sample = SeededDataset(dataset, seed=0, epoch=0)[index]
        height, width = sample["inputs"].shape[1:]
        assert height == width
        assert 32 <= height <= 64
        sides.add(height)
        objects = dataset.get_data_info(index)["instances"]
        listed = [entry["bbox"] for entry in objects if not entry["ignore_flag"]]  # without crowds
        boxes = sample["data_samples"].gt_instances.bboxes.tensor.tolist()
        assert boxes == [pytest.approx([edge * height / 64 for edge in box], abs=0.01) for box in listed]
    assert len(sides) > 5


def test_the_size_depends_on_seed_epoch_and_image_alone(squares):
    def shapes(seed, epoch, indices=range(20)):
        dataset = dataset_of(squares, flip=0.5, short_sides={"choices": [32, 48, 64]})
        seeded = SeededDataset(dataset, seed, epoch)
        return [tuple(seeded[index]["inputs"].shape) for index in indices]

    assert shapes(0, 0) == shapes(0, 0)
    assert shapes(0, 0)[5:8] == shapes(0, 0, range(5, 8))
    assert shapes(0, 0) != shapes(0, 1)
    assert shapes(0, 0) != shapes(1, 0)


def test_test_images_have_one_size(squares):
    dataset = dataset_of(squares, flip=None, short_sides={"range": (32, 40)})
    assert {tuple(dataset[index]["inputs"].shape[1:]) for index in range(20)} == {(64, 64)}


class ThreadsOfWorker(Dataset):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> dict:
        return {"opencv": cv2.getNumThreads(), "torch": torch.get_num_threads()}


@pytest.mark.parametrize("options", [{}, {"worker_init_fn": loading._leave_signals}], ids=["test", "train"])
def test_a_loading_process_has_one_thread(options):
    before = cv2.getNumThreads()
    cv2.setNumThreads(2)
    try:
        loader = loading._loader(ThreadsOfWorker(), 1, batch_size=1, **options)
        (batch,) = loading._batches_of(loader)
        assert cv2.getNumThreads() == 2  # here
    finally:
        cv2.setNumThreads(before)
    assert batch == {"opencv": [1], "torch": [1]}


class Sleeping(Dataset):
    """A file system that never answers."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict:
        time.sleep(1000)
        raise AssertionError


class Images(Dataset):
    """As large as photographs, each with several tensors."""

    def __init__(self, tensors: int = 1, fault: str = "") -> None:
        self.tensors, self.fault = tensors, fault

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict:
        if self.fault == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fault == "bus error":
            os.kill(os.getpid(), signal.SIGBUS)
        return {str(number): torch.full((3, 300, 400), index) for number in range(self.tensors)}


def batches(dataset: Dataset, workers: int, **options):
    return loading._batches_of(loading._loader(dataset, workers, batch_size=4, **options))


def children() -> list:
    return multiprocessing.active_children()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_that_never_comes_ends_the_wait(monkeypatch, workers):
    monkeypatch.setattr(loading, "LONGEST_WAIT", 1.0)
    start = time.monotonic()
    with pytest.raises(LoaderError, match=r"nothing came within 1 s.*`workers`"):
        next(batches(Sleeping(), workers, worker_init_fn=loading._leave_signals))
    assert time.monotonic() - start < 15
    assert children() == []


@pytest.mark.parametrize("workers", [0, 2])
def test_a_request_to_stop_ends_the_wait(workers):
    came = threading.Event()
    threading.Timer(0.5, came.set).start()
    start = time.monotonic()
    loader = loading._loader(Sleeping(), workers, batch_size=4, worker_init_fn=loading._leave_signals)
    with closing(loading._batches_of(loader, came.is_set)) as waiting:
        assert next(waiting) is None
    assert time.monotonic() - start < 15
    assert children() == []


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_what_loading_processes_send_is_what_they_loaded(workers):
    received = list(batches(Images(tensors=3), workers))
    assert [[int(image[0, 0, 0]) for image in batch["2"]] for batch in received] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
    ]
    assert received[0]["0"][0].shape == (3, 300, 400)
    assert children() == []


@pytest.mark.parametrize(
    ("fault", "hint"), [("killed", "memory ran out; raise mem_mb"), ("bus error", "enlarge /dev/shm")]
)
def test_a_loading_process_that_was_killed_is_explained(fault, hint):
    with pytest.raises(LoaderError, match=hint):
        list(batches(Images(fault=fault), 2))


def test_few_open_files_are_enough_or_named():
    """Each tensor that is on its way is an open file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        assert len(list(batches(Images(tensors=100), 2))) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


LITTLE = """
import sys
sys.path.insert(0, "tests/data")
from test_loading import Images, batches
try:
    list(batches(Images(tensors=20), 2))
except Exception as error:
    print(type(error).__name__, error)
"""


def test_too_little_shared_memory_ends_the_wait_with_a_hint():
    """As in a container, with 64 MB or less."""
    mount = "mount -t tmpfs -o size=1m tmpfs /dev/shm"
    if subprocess.run(["unshare", "-m", "bash", "-c", mount], capture_output=True).returncode:
        pytest.skip("only root may mount a small /dev/shm")
    call = ["unshare", "-m", "bash", "-c", f'{mount} && exec "$@"', "-", sys.executable, "-c", LITTLE]
    found = subprocess.run(call, capture_output=True, text=True, timeout=60, cwd=REPOSITORY)
    assert "\nLoaderError the processes" in found.stdout, found
    assert "--shm-size" in found.stdout
    assert "Exception ignored" not in found.stderr
