"""Two studies beside each other: differences seed by seed, by hand, and the command."""

import json
import math

import pandas as pd
import pytest

from tood.cli import main
from tood.report.two_studies import compare_studies
from tood.runtime.failures import InputError
from tood.study.declarations import load_runs

RUNS = [run for run in load_runs() if run in ("atss_af", "tood_af", "gfl")]


def write(results, study: str, *rows: tuple, stale: bool = False) -> None:
    """Values by run, seed and metric."""
    frame = pd.DataFrame(rows, columns=["run", "seed", "metric", "value"]).assign(stale=stale)
    (results / study).mkdir(parents=True, exist_ok=True)
    frame.to_csv(results / study / "metrics.csv", index=False)


def of(run: str, *values: float, metric: str = "AP") -> list[tuple]:
    return [(run, seed, metric, value) for seed, value in enumerate(values)]


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "results"
    write(folder, "old", *of("tood_af", 40, 41, 42, 50), *of("atss_af", 30, 31), *of("fcos", 20), *AP75)
    # Of these TOOD has seeds 0, 1 and 2, with the differences 1, 2 and 3, and ATSS a seed that is not there.
    write(folder, "new", *of("tood_af", 41, 43, 45), ("atss_af", 7, "AP", 33.0), *of("gfl", 20), *AP75)
    return folder


AP75 = of("tood_af", 30, 30, metric="AP75")


def test_differences_by_hand(results):
    frame = compare_studies(results, "old", "new")
    assert frame["run"].to_list() == [run for run in RUNS if run != "gfl"]  # in the order of declaration
    tood, atss = (frame.set_index("run").loc[run] for run in ("tood_af", "atss_af"))
    assert (tood["seeds"], tood["first"], tood["second"], tood["mean"], tood["sd"]) == (3, 41, 43, 2, 1)
    assert [tood[f"seed{seed}"] for seed in range(3)] == [1, 2, 3]
    # t = 4.303 for two degrees of freedom, and an error of 1 / sqrt(3)
    assert (tood["low"], tood["high"]) == pytest.approx((2 - 2.484, 2 + 2.484), abs=1e-3)
    # Variances 1 and 4 over 3 seeds: freedom 25 / (1 + 16) * 2 = 2.94, between t of 2 and of 3 degrees
    half = math.sqrt(5 / 3)
    assert 3.182 * half < tood["welch_high"] - 2 < 4.303 * half
    assert tood["p"] == tood["holm_p"] == pytest.approx(0.0742, abs=1e-4)  # t = 3.464
    assert atss["seeds"] == 0
    assert atss[["first", "second", "mean", "low", "p"]].isna().all()


def test_every_metric_that_both_have(results):
    frame = compare_studies(results, "old", "new", [])
    assert set(frame["metric"]) == {"AP", "AP75"}
    assert frame.set_index(["metric", "run"]).loc[("AP75", "tood_af"), "mean"] == 0


@pytest.mark.parametrize(
    ("studies", "metric", "message"),
    [
        (("old", "none"), "AP", r"none: results/none/metrics.csv is not there; `tood report --name none`"),
        (("old", "new"), "AP57", r"--metric AP57: .*did you mean AP75 or AP\? there are AP, AP75"),
        (("old", "stale"), "AP", "stale: every value in .* is stale"),
        (("old", "other"), "AP", "old and other have no run in common"),
    ],
)
def test_what_cannot_be_compared_is_said(results, studies, metric, message):
    write(results, "stale", *of("tood_af", 1, 2), stale=True)
    write(results, "other", *of("vfnet", 1, 2))
    with pytest.raises(InputError, match=message):
        compare_studies(results.relative_to(results.parent), *studies, [metric])


def test_the_command_prints_what_is_computed(results, tmp_path, capsys):
    table = tmp_path / "both.csv"
    assert main(["compare", "old", "new", "--output", str(table)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("new minus old\n\nAP ")
    (row,) = [line.split() for line in printed.splitlines() if line.startswith("tood_af")]
    assert row[:8] == ["tood_af", "3", "41.0", "43.0", "+2.0", "-0.5", "to", "+4.5"]
    assert pd.read_csv(table)["seed2"].to_list()[-1] == 3
    assert main(["compare", "old", "new", "--metric", "all", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["metric"] for row in rows] == ["AP", "AP", "AP75"]
    assert rows[0]["p"] is None  # as nan is
    assert main(["compare", "old", "new", "--output", "both.xlsx"]) == 2
