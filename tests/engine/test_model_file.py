"""The file of a trained model: what comes back of it, and files that are refused by their name."""

from pathlib import Path

import pytest
import torch
from helpers.odd_images import ODD
from helpers.short_trainings import bits, configured, initialised, save_model

from tood.engine.weights import load_model
from tood.study.plan import Plan

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def test_a_model_and_its_meta_come_back(tmp_path):
    config = configured("tood_af")
    model, other = initialised(config, 0), initialised(config, 1)
    meta = {"settings": Plan({}).settings("tood_af"), "seed": 3, "classes": config.classes}
    save_model(tmp_path / "new" / "model.pth", model, meta)
    assert bits(other) != bits(model)
    assert load_model(tmp_path / "new" / "model.pth", other) == meta
    assert bits(other) == bits(model)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["model.pth"]


def spoil_by_truncation(path):
    path.write_bytes(path.read_bytes()[:-1000])


def spoil_by_another_model(path):
    save_model(path, initialised(configured("atss_af")), {})


def spoil_by_other_classes(path):
    save_model(path, initialised(configured("tood_af", categories=ODD)), {})


def spoil_by_foreign_content(path):
    torch.save({"weights": torch.zeros(3)}, path)


def spoil_by_missing_meta(path):
    torch.save({"state_dict": initialised(configured("tood_af")).state_dict()}, path)


@pytest.mark.parametrize(
    "spoil",
    [
        Path.unlink,
        spoil_by_truncation,
        spoil_by_another_model,
        spoil_by_other_classes,
        spoil_by_foreign_content,
        spoil_by_missing_meta,
    ],
)
def test_a_file_that_does_not_fit_is_named(tmp_path, spoil):
    config, path = configured("tood_af"), tmp_path / "model.pth"
    save_model(path, initialised(config), {})
    spoil(path)
    with pytest.raises(RuntimeError, match=r"model\.pth: cannot be loaded into this run's model"):
        load_model(path, initialised(config))
