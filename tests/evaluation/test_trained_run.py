"""A trained run as the steps of the workflow get it."""

import pytest
from helpers.manifests import write_manifest
from helpers.odd_images import VAL
from helpers.short_trainings import CPU, DRAWN, bits, configured, initialised, save_model

from tood.evaluation.trained_run import load_trained
from tood.study.jobs import Execution, MeasuringJob
from tood.study.plan import Plan

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def test_a_trained_run_is_what_the_scripts_get(drawn, tmp_path):
    model = initialised(configured("tood_af"), 5)
    save_model(tmp_path / "model.pth", model, {})
    write_manifest(tmp_path / "manifest.json", drawn, DRAWN)
    job = MeasuringJob(
        settings=Plan({}).settings("tood_af"),
        model=tmp_path / "model.pth",
        manifest=tmp_path / "manifest.json",
        images=4,
    )
    loaded = load_trained(job, Execution(device="cpu"))
    assert bits(loaded.model) == bits(model)
    assert (loaded.device, list(loaded.indices), len(loaded.dataset)) == (CPU, [0, 1, 2, 3], 6)
    assert loaded.annotations == drawn / VAL.annotations
    with pytest.raises(RuntimeError, match=r"model\.pth"):
        load_trained(job.model_copy(update={"settings": Plan({}).settings("tal")}), Execution(device="cpu"))
