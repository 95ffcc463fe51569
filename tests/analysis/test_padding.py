"""How much of the training images is padding: arithmetic by hand, and what is committed."""

import csv
import math

import pytest
from helpers.recipes import ours
from mmengine.config import Config

from tood.analysis.padding import IMAGES, Padding, of_runs, padding
from tood.study.declarations import load_runs
from tood.study.paths import PADDING, REPOSITORY
from tood.study.planning import relative_pixels

WIDE, TALL = (640, 480), (480, 640)


@pytest.fixture(scope="module")
def measured() -> dict[str, Padding]:
    return dict(of_runs())


def config(replica: int = 2, **short_sides) -> Config:
    return Config(
        dict(
            model=dict(data_preprocessor=dict(pad_size_divisor=32)),
            input=dict(size=(1333, 800), train_short_sides=short_sides),
            train=dict(batch_size=16, replica=replica),
        )
    )


def test_images_of_one_size_are_padded_to_a_multiple_of_32():
    """640 x 480 becomes 1067 x 800, and that 1088 x 800."""
    found = padding(config(), {WIDE: 1})
    assert found.megapixels == pytest.approx(1088 * 800 / 1e6)
    assert found.of_replica == found.of_batch == pytest.approx(1 - 1067 / 1088)


def test_orientations_do_not_meet_in_a_replica():
    found = padding(config(), {WIDE: 1, TALL: 1})
    assert found.of_replica == pytest.approx(1 - 1067 / 1088)


def test_an_image_alone_is_hardly_padded_and_a_batch_much():
    alone, pair, four = (padding(config(n, range=(480, 800)), {WIDE: 1}) for n in (1, 2, 4))
    assert alone.of_replica < 0.06 < pair.of_replica < four.of_replica < four.of_batch
    assert alone.of_batch == pair.of_batch == four.of_batch
    # The larger of two numbers from 480 to 800 is 693 in the mean, its square 0.485e6
    assert pair.megapixels == pytest.approx(4 / 3 * 0.485, rel=0.05)


def test_the_mean_of_a_choice():
    found = padding(config(1, choices=[400, 800]), {WIDE: 1})
    expected = (1088 * 800 + math.ceil(533 / 32) * 32 * 416) / 2e6
    assert found.megapixels == pytest.approx(expected, rel=3 / math.sqrt(IMAGES))


def test_what_is_committed_is_what_the_command_writes(measured):
    with PADDING.open(newline="") as file:
        committed = {row["run"]: row for row in csv.DictReader(file)}
    assert list(measured) == list(committed) == list(load_runs())
    for run, found in measured.items():
        assert {key: float(value) for key, value in committed[run].items() if key != "run"} == pytest.approx(
            found._asdict(), abs=1e-4
        )
        assert found.replica == ours(run).train.replica


def test_a_replica_saves_a_third_at_most_and_jitter_to_960_costs_more(measured):
    pixels = relative_pixels()
    assert pixels["tood_af"] == 1
    assert pixels["gflv2_x101_32x4d_dcn"] > 1.25 * pixels["gfl_r101"]  # 480 to 960 against 480 to 800
    saved = [1 - (1 - p.of_batch) / (1 - p.of_replica) for p in measured.values()]
    assert 0.03 < min(saved) < max(saved) < 0.34


def test_the_documentation_has_these_numbers(measured):
    page = (REPOSITORY / "docs" / "paper_vs_code.md").read_text(encoding="utf-8")
    section = page.partition("\n## Replicas\n")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.endswith("% |")]
    said = {(int(row[1]), row[3], row[4]) for row in rows}
    shares = {(p.replica, f"{p.of_batch:.0%}", f"{p.of_replica:.0%}") for p in measured.values()}
    assert said == {(replica, *(f"{share[:-1]} %" for share in both)) for replica, *both in shares}
