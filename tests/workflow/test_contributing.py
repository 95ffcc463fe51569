"""The example of CONTRIBUTING.md, followed step by step: files and commands are read from the page itself."""

import re
import shlex
import shutil
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pytest
import torch
from markdown_it import MarkdownIt
from mmdet.models.task_modules.assigners import ATSSAssigner
from mmengine.structures import InstanceData

from examples.atss_top import ATSSTopAssigner

REPOSITORY = Path(__file__).parents[2]
EXAMPLE = (REPOSITORY / "CONTRIBUTING.md").read_text().partition("## Adding a method\n")[2]


class Addition(NamedTuple):
    """What a step adds: a new file, or text at the end of one."""

    path: str
    new: bool
    text: str


def read_page() -> tuple[list[Addition], list[list[str]]]:
    """The additions, each named in the paragraph before its block, and the commands, as words."""
    additions, commands, paragraph = [], [], ""
    for token in MarkdownIt().parse(EXAMPLE):
        if token.type == "inline":
            paragraph = token.content
        elif token.type == "fence" and token.info == "sh":
            commands += [shlex.split(line, comments=True) for line in token.content.splitlines()]
        elif token.type == "fence":
            path, place = re.match(r"`([^`]+)`, (a new file|at its end)", paragraph).groups()
            additions.append(Addition(path, place == "a new file", token.content))
    return additions, commands


ADDITIONS, (LIST, PLAN, STUDY) = read_page()


def run(workspace, *command: str) -> str:
    """What a command prints, with the workspace's own package in place of the installed one."""
    outcome = workspace.run(*command, PYTHONPATH=str(workspace.path))
    assert outcome.returncode == 0, outcome.stdout
    return outcome.stdout


def trained(plan: str) -> set[str]:
    """The runs that a dry run would train, which it names as they are few."""
    lines = re.findall(r"^ *\d+ +train .*", plan, re.MULTILINE)
    return {run for line in lines for run in re.findall(r"(\w+) seed \d+", line)}


@pytest.fixture(scope="module")
def workspace(new_workspace):
    """The repository with what the page adds."""
    workspace = new_workspace()
    for name in ("experiments", "tood", "workflow"):
        (workspace.path / name).unlink(missing_ok=True)
        shutil.copytree(
            REPOSITORY / name, workspace.path / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    for addition in ADDITIONS:
        path = workspace.path / addition.path
        assert path.exists() != addition.new, addition.path
        with path.open("a") as file:
            file.write(addition.text if addition.new else f"\n{addition.text}")
    return workspace


def test_the_class_of_the_page_is_the_example():
    (block,) = (addition.text for addition in ADDITIONS if "class " in addition.text)
    assert block == (REPOSITORY / "examples/atss_top.py").read_text()


def test_the_run_is_listed_with_its_row_and_planned(workspace):
    (line,) = (line for line in run(workspace, *LIST).splitlines() if line.startswith("atss_top "))
    assert line.endswith("Variants of ATSS: ATSS top 3")
    assert trained(run(workspace, *PLAN)) == {"atss_af", "atss_top"}


@pytest.mark.slow
def test_the_study_fills_the_table(workspace):
    call = (*STUDY, "iterations=3", "val_images=6")
    run(workspace, *call)
    results = workspace.path / "results/variants"
    table = pd.read_csv(results / "tables/variants.csv").set_index("run")
    assert table["status"].to_dict() == {"atss_af": "done", "atss_top": "done"}
    assert table["AP"].between(0, 100).all()
    positives = table["Positives (last)"]
    assert 0 < positives["atss_top"] <= 3 < positives["atss_af"]

    shown = [line for line in EXAMPLE.splitlines() if line.startswith("|")]
    rendered = (results / "tables/variants.md").read_text().splitlines()
    rendered = [line for line in rendered if line.startswith("|")]
    assert rendered[:2] == shown[:2]
    assert [line.split("|")[1] for line in rendered] == [line.split("|")[1] for line in shown]
    assert '<h2 id="variants">Variants of ATSS</h2>' in (results / "report.html").read_text()
    sizes = pd.read_csv(workspace.path / "results/paper/complexity.csv").set_index("run")
    assert sizes.loc["atss_top"].equals(sizes.loc["atss_af"])  # an assigner has no parameters

    assert "Nothing to be done" in run(workspace, *call)
    declaration = workspace.path / "experiments/tables/variants.yaml"
    declaration.write_text(declaration.read_text().replace("ATSS top 3", "ATSS with three anchors"))
    renamed = run(workspace, *call, "-n")
    assert not trained(renamed)
    assert re.search(r"^ *1 +tables ", renamed, re.MULTILINE)
    method = workspace.path / ADDITIONS[0].path
    method.write_text(method.read_text().replace("descending=True", "descending=False"))
    assert "atss_top" in trained(run(workspace, *call, "-n"))


# The class by hand


def atss_and_top(positives: int, gt_boxes: list[list[float]]):
    """Both assignments of 26 anchors: four and one that overlap objects, and many that overlap none.

    The IoU with (0, 0, 10, 10) is a tenth of the anchor's height, that with (200, 0, 210, 10) is 1.
    """
    boxes = (
        [[0, 0, 10, height] for height in (8, 10, 7, 9)] + [[200, 0, 210, 10]] + [[100, 100, 110, 110]] * 21
    )
    anchors = InstanceData(priors=torch.tensor(boxes, dtype=torch.float))
    gt = InstanceData(bboxes=torch.tensor(gt_boxes).reshape(-1, 4), labels=torch.arange(len(gt_boxes)) + 5)
    assigners = (ATSSAssigner(topk=26), ATSSTopAssigner(positives, topk=26))
    return [assigner.assign(anchors, [26], gt) for assigner in assigners]


def test_an_object_keeps_its_best_anchors():
    atss, top = atss_and_top(3, [[0.0, 0, 10, 10], [200.0, 0, 210, 10]])
    nothing = [0] * 21
    assert atss.gt_inds.tolist() == [1, 1, 1, 1, 2, *nothing]
    assert top.gt_inds.tolist() == [1, 1, 0, 1, 2, *nothing]  # not the third, whose IoU is .7
    assert top.labels.tolist() == [5, 5, -1, 5, 6] + [-1] * 21


@pytest.mark.parametrize(("positives", "kept"), [(1, 1), (2, 2), (4, 4), (9, 4)])
def test_as_many_as_asked_for_if_there_are(positives, kept):
    atss, top = atss_and_top(positives, [[0.0, 0, 10, 10]])
    assert int((top.gt_inds > 0).sum()) == kept
    assert (top.gt_inds[top.gt_inds > 0] == 1).all()
    assert int((atss.gt_inds > 0).sum()) == 4


def test_an_image_without_objects():
    for result in atss_and_top(3, []):
        assert result.num_gts == 0
        assert not result.gt_inds.any()
