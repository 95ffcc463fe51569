"""The results in README.md and docs/results.md, from hand-made results and from those kept in git."""

import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from tood.report.front_page import BEGIN, END, headlines_part, results_part, rewrite
from tood.report.mini_page import cells_part, mini_part
from tood.study.claims import load_claims
from tood.study.declarations import load_runs, load_tables
from tood.study.pages import ResultsPart

REPOSITORY = Path(__file__).parents[2]
HEADLINES = 8  # on the first page of README.md
CLAIMS = len(load_claims(load_runs(), load_tables()))
SIZES = "run,head_params_m,params_m,head_gflops,gflops\natss_af,1.004,2.006,3,4\n"


@pytest.fixture
def results(tmp_path):
    """Nothing measured yet; `add(scale, (run, seed, metric, value), ...)` writes a `metrics.csv`."""
    folder = tmp_path / "results"
    folder.mkdir()

    def add(scale: str, *records: tuple, stale: bool = False) -> Path:
        frame = pd.DataFrame(records, columns=["run", "seed", "metric", "value"]).assign(stale=stale)
        (folder / scale).mkdir(exist_ok=True)
        frame.astype({"seed": "Int64"}).to_csv(folder / scale / "metrics.csv", index=False)
        return folder

    return add


def everything(folder: Path) -> str:
    """All tables of both scales."""
    return results_part(folder, [ResultsPart(scale=scale) for scale in ("paper", "mini")])


def seeds(run: str, metric: str, *values: float) -> list[tuple]:
    return [(run, seed, metric, value) for seed, value in enumerate(values)]


def tables(text: str) -> dict[str, list[list[str]]]:
    """Cells of each table of Markdown by its title, header first and without the line of alignments."""
    found, title = {}, ""
    for line in text.splitlines():
        if line.startswith("**Table"):
            title = line.split(".")[0].removeprefix("**")
        elif line.startswith("|") and not line.startswith("| :---"):
            found.setdefault(title, []).append([cell.strip() for cell in line.strip("|").split("|")])
    return found


def test_nothing_measured(results):
    text = everything(results("smoke", *seeds("atss_af", "AP", 40.0)))  # a scale that is not shown
    assert tables(text) == {}
    assert text.count("AP was measured for 0 of the paper's 60 runs.") == 2
    assert "`smoke`" not in text
    headlines = headlines_part(results("smoke"))
    assert "AP: 0 of 60 at the scale `paper`, 0 of 60 at the scale `mini`." in headlines
    verdicts = "0 same direction, 0 inconclusive, 0 opposite, 0 depends on the reading."
    assert f"Claims with a verdict at `mini`: 0 of {CLAIMS}; {verdicts}" in headlines
    assert "the opposite was found" not in headlines
    assert headlines.count("| pending |") == HEADLINES


def test_means_over_seeds_beside_the_papers_values(results):
    # AP of ATSS: mean of 40, 41, 45 is 42; squared deviations 4 + 1 + 9 = 14 over n - 1 = 2, sd 2.65.
    records = seeds("atss_af", "AP", 40, 41, 45) + seeds("atss_af", "AP50", 57, 57, 60)
    text = everything(results("mini", *records, ("tood_af", 0, "AP", 44.04)))
    found = tables(text)
    assert found["Table 3"] == [
        ["Type", "Method", "Seeds", "AP", "paper", "reference", "AP50", "paper"],
        ["Anchor-free", "ATSS", "3", "42.0 ± 2.6", "39.2", "–", "58.0 ± 1.7", "57.4"],
        ["Anchor-free", "TOOD", "1", "44.0", "42.5", "42.5<sup>1</sup>", "pending", "59.8"],
    ]
    assert "AP was measured for 2 of the paper's 60 runs." in text.split("**Scale `mini`:**")[1]
    assert [row[0].split("<sup>")[0] for row in found["Table 2"][1:]] == ["ATSS"]
    assert "Table 5" not in found


def test_a_seed_short(results):
    records = seeds("atss_af", "AP", 40, 41, 45) + seeds("atss_af", "AP50", 57, 58)
    found = tables(everything(results("mini", *records)))
    assert found["Table 3"][1][2:] == ["2–3", "42.0 ± 2.6", "39.2", "57.5 ± 0.7", "57.4"]


def test_stale_and_undefined_values_say_so(results):
    folder = results("mini", *seeds("atss_af", "AP", 40.0), stale=True)
    assert tables(everything(folder))["Table 3"][1][3] == "40.0 (stale)"
    undefined = float("nan")
    folder = results("mini", ("atss_af", 0, "AP", 40.0), ("atss_af", 0, "AP75", undefined))
    assert tables(everything(folder))["Table 3"][0] == ["Type", "Method", "Seeds", "AP", "paper"]
    defined = [("tood_af", 0, metric, 50.0) for metric in ("AP", "AP75")]
    folder = results("mini", ("atss_af", 0, "AP", 40.0), ("atss_af", 0, "AP75", undefined), *defined)
    assert tables(everything(folder))["Table 3"][1][-2:] == ["n/a", "42.2"]


def test_sizes_are_those_of_the_scale_paper_alone(results):
    folder = results("mini", ("atss_af", None, "Head params (M)", 9.0), ("atss_af", 0, "AP", 40.0))
    assert "Head params" not in everything(folder)
    (folder / "paper").mkdir()
    (folder / "paper" / "complexity.csv").write_text(SIZES)
    text = everything(folder)
    paper, mini = text.split("**Scale `mini`:**")
    row = ["1.00", "4.92", "2.01", "32.07", "3.00", "104.87", "4.00", "205.21"]
    assert tables(paper)["Table 1"][1:] == [["ATSS (anchor-free)", "Parallel head", *row]]
    assert "Head params" not in mini


def test_a_footnote_on_a_metric_that_is_not_shown_is_left_out(results):
    folder = results("mini", ("fovea", 0, "AP", 30.0))
    remark = "prints the same AP and AP50 with an AP75 of"
    assert remark not in everything(folder)
    shown = results("mini", *(("fovea", 0, metric, 30.0) for metric in ("AP", "AP50", "AP75")))
    assert remark in everything(shown)


def test_only_what_is_between_the_markers_changes(results, tmp_path):
    folder = results("mini", *seeds("atss_af", "AP", 40.0))
    readme = tmp_path / "README.md"
    before, after = "# Ü\r\n\ttrailing  \n\n", "\n\n| a | table |\r\n no newline at the end"
    readme.write_bytes(f"{before}{BEGIN}\nold\n{END}{after}".encode())
    rewrite(readme, everything(folder))
    written = readme.read_bytes()
    assert written == f"{before}{BEGIN}\n\n{everything(folder)}\n{END}{after}".encode()
    rewrite(readme, everything(folder))
    assert readme.read_bytes() == written


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (f"text {END}", BEGIN),
        (f"{BEGIN} text", END),
        (f"{END} text {BEGIN}", f"{END!r} before {BEGIN!r}"),
        (f"{BEGIN} {BEGIN} {END}", f"{BEGIN!r} 2 times"),
    ],
)
def test_markers_that_are_wrong_are_named(results, tmp_path, text, named):
    readme = tmp_path / "README.md"
    readme.write_text(text)
    with pytest.raises(ValueError, match=r"README\.md: has") as error:
        rewrite(readme, everything(results("mini")))
    assert named in str(error.value)
    assert readme.read_text() == text


def test_the_rule_writes_the_file_it_is_called_beside(workspace):
    (workspace.path / "results/paper").mkdir(parents=True)
    (workspace.path / "results/paper/complexity.csv").write_text(SIZES)
    names = ("README.md", "docs/results.md", "docs/mini.md", "docs/cells.md")
    readme, shown, mini, cells = (workspace.path / name for name in names)
    mini.parent.mkdir()
    for page in (readme, shown, mini, cells):
        page.write_text(f"before\n{BEGIN}\n{END}\nafter\n")
    outcome = workspace.run("snakemake", "--cores", "1", "readme")
    assert outcome.returncode == 0, outcome.stdout
    folder = workspace.path / "results"
    parts = {readme: headlines_part(folder), shown: results_part(folder), mini: mini_part(folder)}
    parts[cells] = cells_part(folder)
    for page, part in parts.items():
        assert page.read_text() == f"before\n{BEGIN}\n\n{part}\n{END}\nafter\n"
    assert "| 2.01 | 32.07 |" in shown.read_text()

    readme.write_text("no markers\n")
    outcome = workspace.run("snakemake", "--cores", "1", "readme")
    assert outcome.returncode != 0
    assert f"readme: README.md: has {BEGIN!r} 0 times and needs it once" in outcome.stdout
    assert readme.read_text() == "no markers\n"


def form(page: str) -> tuple[list[str], list[str]]:
    """Titles and heads of tables of a page, which are the same whatever was measured with which code."""
    titles = re.findall(r"^(### .*|\*\*[^*]+\.\*\*)", page, re.MULTILINE)
    return titles, re.findall(r"^(\|.*)\n\| :--", page, re.MULTILINE)


def test_pages_have_the_form_in_which_they_are_rendered(tmp_path):
    """Their numbers change by `make readme` alone, and not with every record or edit of code."""
    listed = subprocess.run(["git", "ls-files", "results"], cwd=REPOSITORY, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("this copy of the repository has no git, which says which results are kept")
    for name in listed.stdout.splitlines():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(REPOSITORY / name, tmp_path / name)
    kept = tmp_path / "results"
    parts = {
        "README.md": headlines_part(kept),
        "docs/results.md": results_part(kept),
        "docs/mini.md": mini_part(kept),
        "docs/cells.md": cells_part(kept),
    }
    for name, part in parts.items():
        page = (REPOSITORY / name).read_text().partition(BEGIN)[2].partition(END)[0]
        assert form(page) == form(part), f"{name}: `make readme` writes it anew"
        if name in ("docs/mini.md", "docs/cells.md"):  # what was found, by the values that are kept
            said, expected = (
                [line for line in text.splitlines() if line.startswith("- ")] for text in (page, part)
            )
            assert said == expected, f"{name}: `make readme` writes it anew"
    assert "| FoveaBox" in parts["docs/results.md"]
    assert "| T-head + TAL |" in parts["docs/mini.md"]
    assert ": TOOD is better than ATSS, anchor-free |" in parts["README.md"]


def pairs(*metrics: tuple[str, float], runs: tuple[str, str] = ("atss_af", "tood_af")) -> list[tuple]:
    """Three seeds of two runs; the second run is above the first by 5, 5.1 and 5.2."""
    return [
        (run, seed, metric, value + seed + (run == runs[1]) * (5 + 0.1 * seed))
        for run in runs
        for seed in (0, 1, 2)
        for metric, value in metrics
    ]


def test_of_mini_the_claims_are_shown_and_not_the_tables(results):
    folder = results("mini", *pairs(("AP", 40.0), ("AP75", 38.0), ("PCC (top-50)", 0.5)))
    paper, mini = results_part(folder).split("**Scale `mini`:**")
    assert set(tables(mini)) == {""}  # the claims, which have no number
    assert {"Table 3", "Table 6"} <= set(tables(everything(folder)))
    (claim,) = [line for line in mini.splitlines() if "+5.1 (" in line and "| AP |" in line]
    assert "| same direction |" in claim
    assert "+5.1 (+4.9 to +5.3)" in claim
    assert "Claims without a verdict, as a run is not trained: " in mini
    assert "Claims" not in paper  # nothing is trained at that scale


def test_headlines_are_the_declared_claims_whatever_their_verdict(results):
    """By hand: 5, 5.1, 5.2 have the interval 5.1 -+ 4.303 * 0.1 / sqrt(3)."""
    records = [*pairs(("AP", 40.0)), *pairs(("#Correct boxes", 40.0), runs=("tood_af", "atss_af"))]
    text = headlines_part(results("mini", *records))
    (header, *rows) = tables(text)[""]
    assert header == ["Claim", "Verdict", "Metric", "paper", "ours", "Seeds", "Robustness"]
    runs = load_runs()
    claims = enumerate(load_claims(runs, load_tables(runs=runs)), 1)
    declared = [f"C{number}: {claim.claim}" for number, claim in claims if claim.headline]
    assert [row[0] for row in rows] == declared
    assert len(rows) == HEADLINES
    found = {row[0]: row[1:] for row in rows}
    better = ["same direction", "AP", "+3.3", "+5.1 (+4.9 to +5.3)", "3", "Welch: same direction"]
    assert found["C9: TOOD is better than ATSS, anchor-free"] == better
    fewer = ["opposite", "#Correct boxes", "+473; +1.6%", "−5 (−5 to −5); −11.1%", "3", "Welch: opposite"]
    assert found["C19: TOOD keeps more correct boxes than ATSS"] == fewer
    verdicts = "1 same direction, 0 inconclusive, 1 opposite, 0 depends on the reading."
    assert f"Claims with a verdict at `mini`: 2 of {CLAIMS}; {verdicts}" in text
    assert " the opposite was found: TOOD keeps more correct boxes than ATSS (C19).\n" in text
    assert "points the opposite way" not in text
    assert "Claims on sizes" not in text
    assert "Claims against a control" not in text
    assert "AP: 0 of 60 at the scale `paper`, 2 of 60 at the scale `mini`." in text


def test_claims_of_another_kind_or_with_other_evidence_are_named(results):
    """A control, sizes of models, and photographs on which TOOD is as much worse as it is better here."""
    results("cells", *pairs(("AP", 40.0), runs=("tood_af", "atss_af")))
    folder = results(
        "mini",
        *pairs(("AP", 40.0)),
        *seeds("atss_af_thead", "AP", 40.0, 41.0, 42.0),
        *seeds("parallel_atss", "AP", 39.0, 40.1, 41.0),
    )
    (folder / "paper").mkdir()
    (folder / "paper" / "complexity.csv").write_text(f"{SIZES}atss_af_thead,1.004,1.906,3,3\n")
    text = headlines_part(folder)
    assert (
        "- For these claims another study, or another definition of Table 6, points the opposite way, with "
        "an interval that excludes 0: TOOD is better than ATSS, anchor-free (C9).\n"
        "- Claims on sizes of models, which need no training: C5, C6.\n"
        "- Claims against a control that the paper does not have: C22.\n"
    ) in text
