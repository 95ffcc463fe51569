"""Scales: what their files inherit from one another."""

import pytest

from tood.study import scales
from tood.study.declarations import ExperimentError
from tood.study.scales import SCALES, load_scale


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A copy of the scales, to which files can be added."""
    copy = tmp_path / "experiments" / "scales"
    copy.mkdir(parents=True)
    for path in SCALES.glob("*.yaml"):
        (copy / path.name).write_text(path.read_text())
    monkeypatch.setattr(scales, "SCALES", copy)
    monkeypatch.setattr(scales, "EXPERIMENTS", copy.parent)
    return copy


def test_a_scale_can_extend_one_that_extends_another(folder):
    (folder / "mine.yaml").write_text("extends: mini\nseeds: [7]\ntraining: {lr: 0.5}\n")
    (folder / "yours.yaml").write_text("extends: mine\ntraining: {warmup_iterations: 3}\n")
    mini, yours = load_scale("mini"), load_scale("yours")
    assert (yours.name, yours.seeds, yours.description) == ("yours", (7,), mini.description)
    assert (yours.training.lr, yours.training.warmup_iterations) == (0.5, 3)
    assert yours.model == mini.model == load_scale("smoke").model
    assert yours.drawing == mini.drawing != load_scale("smoke").drawing


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extends: mni\n", r"mine\.yaml: extends: 'mni' is no scale; did you mean mini\?"),
        ("extends: mine\n", r"mine\.yaml: extends: mine extends mine; remove one"),
        ("extends: other\n", r"other\.yaml: extends: mine extends other extends mine; remove one"),
    ],
)
def test_what_cannot_be_extended_is_named(folder, text, message):
    (folder / "mine.yaml").write_text(text)
    (folder / "other.yaml").write_text("extends: mine\n")
    with pytest.raises(ExperimentError, match=message):
        load_scale("mine")
