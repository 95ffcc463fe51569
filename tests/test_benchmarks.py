"""The benchmarks at tiny sizes: outputs agree, files are written. No time is judged."""

import argparse
import json
import sys
from pathlib import Path

import pytest
import torch
from helpers.fake_device import DRIVERLESS, fake

from benchmarks import __main__ as program
from benchmarks import gpu, memory
from benchmarks.inputs import grids, predictions
from benchmarks.measure import peak_memory
from benchmarks.pair import Pair
from benchmarks.report import BEGIN, END, merge, put_table, table
from tood.data.validation import Split, check_dataset

REPOSITORY = Path(__file__).parents[1]
SIZE = (96, 160)


@pytest.fixture
def page(tmp_path):
    path = tmp_path / "page.md"
    path.write_text(f"# Before\n\n{BEGIN}old\n{END}\nafter\n")
    return path


@pytest.fixture
def once(monkeypatch):
    """Everything is timed once."""
    suite = program.suite
    monkeypatch.setattr(
        program, "suite", lambda **sizes: (one._replace(least_repeats=1) for one in suite(**sizes))
    )


@pytest.mark.slow  # half a minute
def test_all_benchmarks_compare_outputs_and_write_results_and_table(tmp_path, page, once):
    results = tmp_path / "results.json"
    program.main(["--size", "tiny", "--seconds", "0", "--results", str(results), "--page", str(page)])
    found = json.loads(results.read_text())
    names = [result["name"] for result in found]
    assert len(set(names)) == len(names)
    prefixes = ("loss/aligned/", "loss/warm-up/", "targets/", "t_head", "step")
    for prefix in (*prefixes, "statistics", "coco_ap", "loader"):
        assert any(name.startswith(prefix) for name in names)
    for result in found:
        ours, peer = result["ours"], result["peer"]
        assert 0 < ours["fastest_s"] <= ours["median_s"] <= ours["slowest_s"]
        assert (peer is None) == (result["ratio"] is None) == (result["skipped"] is not None)
        if peer is not None:
            assert result["ratio"] == pytest.approx(peer["median_s"] / ours["median_s"])
        assert result["floor_s"] > 0
        assert result["machine"]["threads"] == torch.get_num_threads()
    assert all(result["peer"] for result in found if "mmdet" in result["peer_name"])
    rates = {result["name"] for result in found if result["images_per_second"]}
    assert rates == {"statistics", "coco_ap", "loader"}
    text = page.read_text()
    assert text == f"# Before\n\n{BEGIN}\n{table(found)}{END}\nafter\n"
    assert all(result["title"] in text for result in found)


@pytest.mark.slow
def test_a_peer_that_is_not_installed_is_left_out_with_the_reason(tmp_path, page, once, monkeypatch):
    monkeypatch.setitem(sys.modules, "ultralytics.utils.tal", None)
    monkeypatch.setitem(sys.modules, "ultralytics", None)
    results = tmp_path / "results.json"
    arguments = ["--size", "tiny", "--seconds", "0", "--only", "targets/"]
    program.main([*arguments, "--results", str(results), "--page", str(page)])
    found = json.loads(results.read_text())
    assert found
    assert all(result["skipped"] == "not installed" and result["peer"] is None for result in found)
    assert "Ultralytics TaskAlignedAssigner: not installed" in page.read_text()


def test_outputs_that_differ_are_not_timed(monkeypatch):
    timed = []

    def compare(ours, peer):
        assert ours == peer

    pair = Pair(lambda: timed.append("ours"), lambda: 1, compare, bytes=1)
    benchmark = next(iter(program.suite(**program.SIZES["tiny"])))._replace(build=lambda device: pair)
    with pytest.raises(AssertionError):
        program.measure(benchmark, 0, (1.0, 1.0), torch.device("cpu"))
    assert timed == ["ours"]


def test_results_of_other_benchmarks_and_devices_are_kept(tmp_path):
    path = tmp_path / "results.json"

    def result(name, device, value):
        return {"name": name, "machine": {"device": device}, "value": value}

    merge(path, [result("a", "CPU", 1), result("b", "CPU", 2), result("a", "card", 3)])
    merge(path, [result("a", "CPU", 4)])
    found = json.loads(path.read_text())
    assert sorted((r["name"], r["machine"]["device"], r["value"]) for r in found) == [
        ("a", "CPU", 4),
        ("a", "card", 3),
        ("b", "CPU", 2),
    ]


def test_a_page_without_marks_is_refused(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Performance\n")
    with pytest.raises(ValueError, match=r"page\.md needs the lines"):
        put_table(page, [])


def test_the_page_shows_the_results_that_are_kept():
    kept = json.loads((REPOSITORY / "benchmarks/results.json").read_text())
    text = (REPOSITORY / "docs/performance.md").read_text()
    assert text.split(BEGIN)[1].split(END)[0] == f"\n{table(kept)}"


def test_inputs_are_like_those_of_a_trained_head():
    device = torch.device("cpu")
    found, again = (predictions(2, 20, SIZE, device) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(found.scores, again.scores, strict=True))
    scores = torch.cat([level.flatten() for level in found.scores])
    assert scores.min() > 0
    assert 0 < (scores > 0.05).float().mean() < 0.05
    assert [len(gt.labels) for gt in found.gts] == [20, 20]
    for gt in found.gts:
        assert (gt.bboxes[:, 2:] > gt.bboxes[:, :2]).all()
        assert (gt.bboxes[:, 2:] <= torch.tensor(SIZE[::-1]) + 1e-3).all()
    assert [tuple(level.shape[2:]) for level in found.boxes] == grids(SIZE)
    assert all((level[:, 2:] > level[:, :2]).all() for level in found.boxes)


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is known on Linux alone")
def test_peak_memory_is_that_of_the_call():
    found = peak_memory(lambda: torch.ones(25_000_000).sum(), torch.device("cpu"))
    assert found == pytest.approx(100, rel=0.1)


# Memory, and a GPU that is lent


def test_tensors_are_counted_while_they_live():
    with fake(DRIVERLESS), memory.Living() as living:
        first = torch.empty(1024, 256, device=DRIVERLESS)  # 1 MiB
        second = first + 1
        assert living.bytes == 2 * 2**20
        second = second[:512]  # of the same storage
        assert living.bytes == living.peak == 2 * 2**20
        del first
        third = torch.empty(1024, device="cpu")  # not on the device
        assert living.bytes == 2**20
        second = second.double()
        assert living.bytes == 2**20  # half of the rows, twice the size
        assert (len(second), len(third)) == (512, 1024)
    assert living.peak == 2 * 2**20


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_memory_of_a_step_grows_by_the_images_at_a_time():
    one, two, four = (memory.gibibytes("tood_af", number) for number in (1, 2, 4))
    weights = 3 * 32.2e6 * 4 / 2**30  # with gradients and momentum
    assert one > weights + 16 * 3 * 800 * 1344 * 4 / 2**30
    assert 1 < two - one < 2  # GiB of an image
    assert four - two == pytest.approx(2 * (two - one), rel=0.15)


@pytest.fixture
def lent(tmp_path):
    """Runs the script for a GPU that is lent, on a CPU; its exit status and what it wrote."""

    def run(*arguments) -> tuple[int, dict]:
        path = tmp_path / "card.json"
        status = gpu.main(["--device", "cpu", "--tiny", "--output", str(path), *arguments])
        return status, json.loads(path.read_text())

    return run


def test_parts_for_which_no_time_is_left_are_named(lent):
    status, found = lent("--seconds", "0")
    assert status == 1
    assert list(found["parts"]) == list(gpu.PARTS)
    assert all(part == {"failed": "no time was left"} for part in found["parts"].values())


def test_a_part_that_fails_or_takes_too_long_is_named_and_the_others_go_on(lent, monkeypatch):
    monkeypatch.setattr(gpu, "PARTS", {"unheard of": None, "device": gpu.device_part})
    status, found = lent()
    assert status == 1
    assert "invalid choice" in found["parts"]["unheard of"]["failed"]
    assert found["parts"]["device"]["found"]["device"] == "CPU" == found["card"]
    status, found = lent("--seconds", "0.001")
    assert "not done within" in found["parts"]["unheard of"]["failed"]


def test_what_differs_is_named():
    parts = {
        "equal": {"found": {"paa": {"close": True}, "ota": {"close": False}}},
        "parity": {"found": {"step": "equal", "targets": "no peer", "t_head": "AssertionError: 0.2"}},
        "waits": {"failed": "why"},
    }
    assert gpu.differing(parts) == ["ota", "t_head"]
    assert gpu.differing({"equal": {"failed": "why"}}) == []


def test_few_images_make_many(tmp_path, photographs):
    options = argparse.Namespace(data_root=photographs)
    root = gpu.many_images(tmp_path / "images", options)
    train, val = (Split(f"annotations/instances_{name}.json", name) for name in ("train2017", "val2017"))
    manifest = check_dataset(root, train, val)
    assert manifest["splits"]["train"]["images"] == gpu.IMAGES
    given = json.loads((photographs / train.annotations).read_text())
    assert manifest["splits"]["train"]["annotations"] > gpu.IMAGES // len(given["images"]) * len(
        given["annotations"]
    )


@pytest.mark.slow
def test_every_part_runs(lent):
    status, found = lent()
    assert status == 0, found
    parts = {name: part["found"] for name, part in found["parts"].items()}
    assert set(parts) == set(gpu.PARTS)
    assert all(one["close"] and one["gradient_apart"] == 0 for one in parts["equal"].values())
    assert set(parts["parity"].values()) == {"equal", "no peer"}
    assert all(one["waits"] == 0 for one in parts["waits"].values())  # no CUDA, no wait
    for name, part in parts.items():
        if name.startswith("speed"):
            assert part["images_per_second"] == pytest.approx(part["images"] / part["seconds"])
            assert part["precision"] == name.split()[-1]
