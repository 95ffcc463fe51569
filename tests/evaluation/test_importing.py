"""Published files as models of runs: mmdet's own models under published names, and files that do not fit."""

import json
from collections import OrderedDict

import numpy as np
import pytest
import torch
from helpers.manifests import SPLIT
from helpers.zoo import in_authors_names, mmdet_model, publish, with_optimizer, zoo_config
from mmdet.datasets import CocoDataset

from tood.cli import main
from tood.engine.config import build_model, resolve
from tood.evaluation.importing import ImportFailed, checked, fitted, import_file, read, run_import
from tood.ledger.records import read_record, write_record
from tood.ledger.status import read_status
from tood.ledger.study_jobs import import_job
from tood.runtime.files import read_json, write_json
from tood.study.declarations import ExperimentError, load_runs
from tood.study.paths import StudyPaths
from tood.study.plan import Plan
from tood.study.released import load_released

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.usefixtures("torchvision_operators"),
]
CLASSES = CocoDataset.METAINFO["classes"]
CATEGORIES = [{"id": number, "name": name} for number, name in enumerate(CLASSES, 1)]
MANIFEST = {
    "root": "coco",
    "categories": CATEGORIES,
    "splits": {"val": SPLIT},
}
RUNS = load_runs()
ZOO = [file for file in load_released().values() if file.origin == "mmdet"]
SIZE = (96, 160)  # height and width


def zoo_file(run: str):
    return next(file for file in ZOO if file.run == run and not file.near)


def our_config(file):
    settings = Plan({"scale": "paper", "runs": file.run}).settings(file.run)
    settings["run"]["options"] |= file.options
    return resolve(settings, CATEGORIES, None)


def outputs(model) -> list[torch.Tensor]:
    image = torch.randn(1, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = model.bbox_head(model.extract_feat(image))
    return [level for kind in found for level in kind]


def slow_if_large(file):
    marks = [] if RUNS[file.run].backbone == "ResNet-50" else [pytest.mark.slow]
    return pytest.param(file, marks=marks, id=f"{file.run}: {file.file}")


@pytest.mark.parametrize("file", [slow_if_large(file) for file in ZOO])
def test_outputs_are_mmdets(file, tmp_path):
    """Of every file of the zoo that is declared for a run, once it is read."""
    theirs = mmdet_model(zoo_config(file.file))
    ours = build_model(our_config(file)).eval()
    ours.load_state_dict(fitted(dict(theirs.state_dict()), ours, tmp_path / file.file, file.run))
    expected, found = outputs(theirs), outputs(ours)
    assert len(expected) == len(found) >= 10
    for a, b in zip(found, expected, strict=True):
        assert b.std() > 0 or b.numel() <= 4
        # As a whole: single values of a deep network are a few 1e-5 apart by the order of sums alone.
        assert (a - b).norm() <= 1e-5 * b.norm()


@pytest.mark.parametrize("file", ZOO, ids=lambda file: f"{file.run}: {file.file}")
def test_input_and_test_settings_are_mmdets(file):
    """What no tensor tells: colours, means, anchors, the threshold of NMS."""
    ours, theirs = our_config(file).model, zoo_config(file.file).model
    for key in ("mean", "std", "bgr_to_rgb", "pad_size_divisor"):
        assert ours.data_preprocessor[key] == theirs.data_preprocessor[key], key
    for key in ("score_thr", "max_per_img", "nms_pre"):
        assert ours.test_cfg[key] == theirs.test_cfg[key], key
    assert ours.test_cfg.nms.iou_threshold == theirs.test_cfg.nms.iou_threshold
    assert ours.backbone.style == theirs.backbone.style
    anchors = [model.bbox_head.get("anchor_generator") for model in (ours, theirs)]
    if all(anchors):
        assert {"center_offset": 0.0} | dict(anchors[0]) == {"center_offset": 0.0} | dict(anchors[1])


@pytest.fixture(scope="module", params=["tood_af", "tood_ab"])
def tood(request):
    """mmdet's TOOD, the run that it is, and our model of that run."""
    file = zoo_file(request.param)
    return mmdet_model(zoo_config(file.file)), request.param, build_model(our_config(file))


CONTENTS = {
    "a state dict alone": lambda model: model.state_dict(),
    "with an optimiser": lambda model: {
        "meta": {"CLASSES": CLASSES},
        "state_dict": model.state_dict(),
        "optimizer": with_optimizer(model),
    },
    "of mmengine": lambda model: {
        "meta": {"dataset_meta": {"classes": CLASSES}},
        "state_dict": model.state_dict(),
        "best": np.float64(0.4),
    },
    "of parallel training": lambda model: {
        "state_dict": {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    },
    "without counters": lambda model: {
        "state_dict": {k: v for k, v in model.state_dict().items() if "num_batches" not in k}
    },
}


# A file is read content by content, and then its names and its container: each content is there once,
# and so is each pair of the others.
@pytest.mark.parametrize(
    ("content", "names", "old"),
    [
        (content, ("mmdet's names", "the authors' names")[number % 2], number // 2 % 2 == 1)
        for number, content in enumerate(CONTENTS)
    ],
)
def test_every_form_of_a_file_is_read(tood, content, names, old, tmp_path):
    model, run, expected = tood
    saved = CONTENTS[content](model)
    key = "state_dict" if "state_dict" in saved else None
    if names == "the authors' names":
        renamed = in_authors_names(saved[key] if key else saved)
        assert any("la_conv1" in name for name in renamed)
        saved = {**saved, key: renamed} if key else renamed
    path = publish(saved, tmp_path, "any", old)
    weights = read(path)
    assert weights.classes == CLASSES
    found = fitted(weights.state_dict, expected, path, run)
    assert found.keys() == expected.state_dict().keys()
    theirs = model.state_dict()
    for ours, name in (
        ("predictor.cls_decomposition.attention.0.weight", "cls_decomp.layer_attention.0.weight"),
        ("predictor.alignment.offset.2.bias", "reg_offset_module.2.bias"),
        ("scales.3.scale", "scales.3.scale"),
    ):
        assert torch.equal(found[f"bbox_head.{ours}"], theirs[f"bbox_head.{name}"])


def test_prefixes_and_moving_averages(tood, tmp_path):
    """The weights that mmdet itself would load: those under the plain names."""
    model, run, expected = tood
    state_dict = model.state_dict()
    averages = {f"ema_{name.replace('.', '_')}": torch.zeros_like(t) for name, t in state_dict.items()}
    plain = fitted(state_dict, expected, tmp_path, run)
    for prefix in ("module.", "model.", "module._orig_mod.", "model.module."):
        named = {f"{prefix}{name}": tensor for name, tensor in state_dict.items()}
        found = fitted(named | averages, expected, tmp_path, run)
        assert found.keys() == plain.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in plain.items())
    named = {f"module.{name}": tensor for name, tensor in (state_dict | averages).items()}
    assert fitted(named, expected, tmp_path, run).keys() == plain.keys()
    one_of_all = {**state_dict, "module.backbone.conv1.weight": torch.ones(1)}
    assert "it has in addition 1: module.backbone.conv1.weight" in refused(
        fitted, one_of_all, expected, tmp_path, run
    )


def test_early_names_of_fcos(tmp_path):
    file = zoo_file("fcos_imprv")
    state_dict = mmdet_model(zoo_config(file.file)).state_dict()
    early = {name.replace("bbox_head.conv_", "bbox_head.fcos_"): t for name, t in state_dict.items()}
    assert "bbox_head.fcos_centerness.weight" in early
    model = build_model(our_config(file))
    found = fitted(early, model, tmp_path, "fcos_imprv")
    assert all(torch.equal(found[name], tensor) for name, tensor in state_dict.items())


def test_numbers_of_numpy_1(tmp_path):
    path = tmp_path / "a.pth"
    content = {"state_dict": {"a": torch.ones(2)}, "meta": {"best": np.float64(0.4), "all": np.ones(3)}}
    torch.save(content, path, _use_new_zipfile_serialization=False)
    pickled = path.read_bytes()
    assert b"numpy._core.multiarray\n" in pickled
    path.write_bytes(pickled.replace(b"numpy._core.multiarray\n", b"numpy.core.multiarray\n"))
    assert read(path).state_dict.keys() == {"a"}


# Files that do not fit


def small_model():
    model = torch.nn.Module()
    model.backbone = torch.nn.Linear(2, 3)
    model.bbox_head = torch.nn.ModuleDict({str(i): torch.nn.Linear(2, 2, bias=False) for i in range(6)})
    return model


def refused(call, *arguments) -> str:
    with pytest.raises(ImportFailed) as error:
        call(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda s: s.pop("backbone.bias"), ["of 8 tensors it lacks 1: backbone.bias."]),
        (lambda s: s.update(more=torch.ones(1)), ["it has in addition 1: more."]),
        (
            lambda s: s.update({"backbone.weight": torch.ones(4, 2)}),
            ["another shape 1: backbone.weight (4, 2) instead of (3, 2)"],
        ),
        (
            lambda s: s.update({"backbone.bias": torch.full((3,), torch.nan)}),
            ["not finite in 1: backbone.bias"],
        ),
        (  # infinite in the precision of the model
            lambda s: s.update({"backbone.bias": torch.full((3,), 1e300, dtype=torch.float64)}),
            ["not finite in 1: backbone.bias"],
        ),
        (
            lambda s: s.update({"backbone.bias": torch.zeros(3, dtype=torch.complex64)}),
            ["another type of number 1: backbone.bias torch.complex64 instead of torch.float32"],
        ),
        (
            lambda s: [s.pop(f"bbox_head.{i}.weight") for i in range(5)],
            ["lacks 5: bbox_head.0.weight, bbox_head.1.weight, bbox_head.2.weight and 2 more"],
        ),
        (
            lambda s: s.update({"bbox_head.9.weight": s.pop("bbox_head.0.weight")}),
            ["lacks 1: bbox_head.0.weight; it has in addition 1: bbox_head.9.weight"],
        ),
    ],
    ids=["missing", "unknown", "shape", "not finite", "too large", "complex", "many", "renamed"],
)
def test_tensors_that_do_not_fit_are_named(tmp_path, change, parts):
    model = small_model()
    state_dict = dict(model.state_dict())
    fitted(state_dict, model, tmp_path / "a.pth", "tood_af")
    change(state_dict)
    message = refused(fitted, state_dict, model, tmp_path / "a.pth", "tood_af")
    for part in (str(tmp_path / "a.pth"), "tood_af", *parts, "experiments/released.yaml"):
        assert part in message, message


def test_another_detector_is_no_tood(tmp_path):
    expected = {"bbox_head.predictor.tower.0.conv.weight": torch.zeros(1)}
    model = torch.nn.Module()
    model.state_dict = lambda: expected
    message = refused(fitted, {"bbox_head.atss_cls.weight": torch.zeros(1)}, model, tmp_path, "tood_af")
    assert "no parameter of a TOOD head" in message


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ({"model": {"a": torch.ones(1)}, "iteration": 3}, "but model, iteration"),
        ({"state_dict": {}}, "holds no state dict"),
        ({"state_dict": {"a": 1.0}}, "but a;"),
        ({"state_dict": {5: torch.ones(1)}}, "but names that are no text"),
        ([torch.ones(1)], "but a list"),
        (torch.nn.Linear(2, 2), "but an object of a class"),
    ],
)
def test_files_without_a_state_dict(tmp_path, content, part):
    torch.save(content, tmp_path / "a.pth")
    assert part in refused(read, tmp_path / "a.pth")


def test_a_damaged_file(tmp_path):
    path = publish({"state_dict": {"a": torch.ones(1000)}}, tmp_path, "a")
    digest = path.stem[-8:]
    assert checked(path, digest).startswith(digest)
    path.write_bytes(path.read_bytes()[:2000])
    assert f"its name says {digest}" in refused(checked, path, digest)
    assert "is damaged or incomplete" in refused(read, path)
    assert "no such file" in refused(checked, tmp_path / "b.pth")
    assert checked(path.rename(tmp_path / "undeclared-20240115.pth"))  # a date, not a hash


# Into a study


@pytest.fixture
def here(workspace, monkeypatch):
    """A folder with a checked dataset of the study `released`, and mmdet's RetinaNet in a file of it."""
    monkeypatch.chdir(workspace.path)
    write_json(StudyPaths("released").manifest, MANIFEST)
    return workspace.path


@pytest.fixture(scope="module")
def retinanet(tmp_path_factory):
    """A file with the name of a declared one would need its hash, so its name is the user's own."""
    model = mmdet_model(zoo_config(zoo_file("retinanet").file))
    return publish({"state_dict": OrderedDict(model.state_dict())}, tmp_path_factory.mktemp("zoo"), "mine")


def test_tood_import(here, retinanet, capsys):
    assert main(["import", str(retinanet), "--run", "retinanet"]) == 0
    printed = capsys.readouterr().out
    assert "snakemake --cores all --config scale=paper weights=released" in printed
    paths = StudyPaths("released").run("retinanet", 0)
    written = torch.load(paths.model, weights_only=True)
    expected = torch.load(retinanet, weights_only=True)["state_dict"]
    assert all(torch.equal(written["state_dict"][name], tensor) for name, tensor in expected.items())
    facts = read_json(paths.provenance)["released"]
    assert facts == written["meta"]["released"]
    assert (facts["file"], facts["origin"]) == ("retinanet.pth", "hand")
    assert facts["sha256"].startswith(retinanet.stem[-8:])
    assert facts["bytes"] == retinanet.stat().st_size
    assert (here / "weights/released/retinanet.pth").read_bytes() == retinanet.read_bytes()
    plan = Plan({"scale": "paper", "weights": "released"})
    status = read_status(plan, "retinanet", 0)
    assert (status.state, status.stale) == ("released", [])
    main(["show", "retinanet", "--json"])
    (shown,) = json.loads(capsys.readouterr().out)
    assert (shown["state"], shown["import"]["sha256"]) == ("released", facts["sha256"])
    main(["progress", "--json"])
    assert {"retinanet": "released"}.items() <= {
        run["run"]: run["state"] for run in json.loads(capsys.readouterr().out)["runs"]
    }.items()


@pytest.mark.parametrize("run", ["tood_af", "atss_ab"])
def test_a_file_of_another_run_leaves_nothing(here, retinanet, run, capsys):
    assert main(["import", str(retinanet), "--run", run]) == 2
    message = capsys.readouterr().err
    assert str(retinanet) in message
    assert run in message
    assert not (here / "weights").exists()
    assert not StudyPaths("released").runs.exists()


def test_a_file_that_is_declared_for_another_run(here, tmp_path):
    """Anchor-free and anchor-based TOOD have the same tensors, so only the declaration tells."""
    path = tmp_path / zoo_file("tood_af").file
    path.write_bytes(b"")
    with pytest.raises(ExperimentError, match=r"declares it for tood_af, not for tood_ab; use --run tood_af"):
        import_file(path, "tood_ab", {})


def test_a_near_file_is_refused_unless_asked_for(here, tmp_path):
    near = next(file for file in ZOO if file.run == "fcos")
    path = tmp_path / near.file
    path.write_bytes(b"")
    with pytest.raises(
        ExperimentError, match=r"near file, of another recipe than fcos: .* --near accepts it"
    ):
        import_file(path, "fcos", {})
    with pytest.raises(ExperimentError, match=r"its sha256 begins with e3b0c442, its name says 821213aa"):
        import_file(path, "fcos", {}, near=True)


def test_a_run_that_there_is_not(here, retinanet):
    with pytest.raises(ExperimentError, match="did you mean retinanet"):
        import_file(retinanet, "retinanot", {})


def test_before_the_dataset_is_checked_the_file_is_put_in_place(workspace, monkeypatch, retinanet):
    monkeypatch.chdir(workspace.path)
    said = import_file(retinanet, "retinanet", {"data_root": "coco"})
    assert "when it has checked the dataset" in said
    assert (workspace.path / "weights/released/retinanet.pth").is_file()
    assert not StudyPaths("released").run("retinanet", 0).model.exists()
    place = workspace.path / "weights/released/retinanet.pth"
    import_file(retinanet, "retinanet", {"data_root": "coco"})
    place.write_bytes(b"of the user")
    with pytest.raises(ExperimentError, match=r"retinanet.pth is there and is another file than"):
        import_file(retinanet, "retinanet", {"data_root": "coco"})
    assert place.read_bytes() == b"of the user"


def test_classes_that_the_weights_do_not_know(here, retinanet, tmp_path):
    write_json(StudyPaths("released").manifest, MANIFEST | {"categories": CATEGORIES[::-1]})
    with pytest.raises(
        ExperimentError, match=r"knows 80 classes, person .. toothbrush, and the dataset at coco"
    ):
        import_file(retinanet, "retinanet", {})
    state = read_json(StudyPaths("released").run("retinanet", 0).state)
    assert state["state"] == "failed"
    assert "in their order" in state["reason"]
    assert not StudyPaths("released").run("retinanet", 0).model.exists()


def test_another_file_makes_the_run_stale(here, retinanet):
    import_file(retinanet, "retinanet", {})
    (here / "weights/released/retinanet.pth").unlink()
    plan = Plan({"scale": "paper", "weights": "released"})  # the zoo's again
    status = read_status(plan, "retinanet", 0)
    assert (status.state, status.training_stale) == ("stale", ["settings"])


def test_an_import_leaves_what_a_record_is_written_of(here, retinanet):
    """It says nothing of the machine that trained the weights, as nobody knows it."""
    import_file(retinanet, "retinanet", {})
    released = StudyPaths("released")
    write_record(released.run("retinanet", 0), released.manifest, released.record("retinanet", 0))
    record = read_record(released.record("retinanet", 0))
    assert record.provenance["released"]["file"] == "retinanet.pth"
    assert record.provenance.get("hardware") is None


def test_an_import_that_fails_leaves_the_earlier_model(here, retinanet):
    import_file(retinanet, "retinanet", {})
    paths = StudyPaths("released").run("retinanet", 0)
    before = paths.model.read_bytes()
    plan = Plan({"scale": "paper", "weights": "released"})
    (here / "weights/released/retinanet.pth").write_bytes(b"damaged")
    job, released = import_job(plan, "retinanet", 0), plan.released("retinanet")
    assert "it is text" in refused(run_import, job, released, paths.folder, paths.model)
    assert paths.model.read_bytes() == before
