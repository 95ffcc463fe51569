"""Which released files are declared, and which of them a study takes."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from helpers.manifests import write_manifest
from helpers.zoo import stated_ap

from tood.ledger.provenance import evaluation_digest
from tood.ledger.status import expected_digests
from tood.ledger.study_jobs import deciding_code, import_job, measuring_job
from tood.report.figures import VIEWS, figures
from tood.report.metrics import write_results
from tood.runtime.files import write_json
from tood.study.declarations import ExperimentError, load_runs, load_tables
from tood.study.paths import StudyPaths
from tood.study.plan import Plan
from tood.study.released import RELEASED, ReleasedFile, choose, load_released, zoo_address
from tood.workflow.stages import describe_study

FILES = load_released(runs=load_runs())
ZOO = [file for file in FILES.values() if file.origin == "mmdet"]
OPTIONS = {"scale": "paper", "weights": "released"}
NEAR = next(file for file in ZOO if file.run == "fcos")
AUTHORS = FILES["TOOD_R_50_FPN_1x.pth"]


@pytest.fixture(autouse=True)
def here(workspace, monkeypatch):
    monkeypatch.chdir(workspace.path)
    return workspace.path


def put(file: ReleasedFile) -> None:
    file.path.parent.mkdir(parents=True, exist_ok=True)
    file.path.touch()


def refused(**options) -> str:
    with pytest.raises(ExperimentError) as error:
        Plan(OPTIONS | options)
    assert "\n" not in str(error.value)
    return str(error.value)


# The declaration


@pytest.mark.parametrize("file", ZOO, ids=lambda file: file.file)
def test_mmdet_knows_the_file_and_its_ap(file):
    """By name, in the metafiles that come with mmdet."""
    source = file.source()
    assert source.address.endswith(f"/{file.file}")
    assert source.address.startswith("https://download.openmmlab.com/mmdetection/")
    assert source.sha256 == file.file[-12:-4]
    assert stated_ap(file.file) == file.AP


def test_files_of_the_authors_are_fetched_by_hand():
    files = [file for file in FILES.values() if file.origin == "authors"]
    assert len(files) == 6
    assert len({file.drive for file in files}) == 6
    assert all(not file.fetched and file.drive in file.by_hand for file in files)


def test_mmdet_is_asked_without_being_imported():
    program = (
        "import sys; from tood.study.released import zoo_address;"
        f"zoo_address({ZOO[0].file!r}); print({{'torch', 'mmdet', 'mmengine'}} & set(sys.modules))"
    )
    repository = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=repository, capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


def test_an_unknown_file_of_the_zoo():
    with pytest.raises(ExperimentError, match=r"no metafile of the installed mmdet names it; .* an address"):
        zoo_address("tood_r50_fpn_1x_coco-00000000.pth")


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"origin": "zoo"}, "a.pth"),
        ({"origin": "authors"}, "`drive` belongs to files of the authors"),
        ({"drive": "x"}, "`drive` belongs to files of the authors"),
        ({"address": "http://a"}, "`address` belongs to files of the origin `other`"),
        ({"AP": 40.0}, "an AP is of a `set`"),
        ({"options": {"model.type": "tood.TOOD"}}, "say in `near` what differs"),
        ({"options": {"train.lr": 0.1}, "near": "x"}, "'train.lr' is nothing of the model"),
        (
            {"options": {"model.neck": {"type": "os.system", "command": "x"}}, "near": "x"},
            "'os.system' is no class",
        ),
        (
            {"options": {"model.neck.type": "CrossKDSingleStageDetector"}, "near": "x"},
            "is no class of this suite",
        ),
        ({"options": {"model.neck": {"_delete_": True}}, "near": "x"}, "'model.neck._delete_' is no option"),
        ({"options": {"model.neck._scope_": "a"}, "near": "x"}, "'model.neck._scope_' is no option"),
        ({"options": {"model.neck.init_cfg.type": "Pretrained"}, "near": "x"}, "is no option"),
        ({"options": {"model.backbone.pretrained": "a"}, "near": "x"}, "is no option"),
        ({"options": {"model.test_cfg.nms.type": "__import__('os')"}, "near": "x"}, "is no class"),
        ({"options": {"model.backbone.style": "../a.py"}, "near": "x"}, "is no plain word"),
        ({"options": {"model.backbone.base_channels": 10**9}, "near": "x"}, "is a number above 4096"),
        ({"options": {"model.backbone.strides": [10**9]}, "near": "x"}, "is a number above 4096"),
        ({"file": "../a.pth"}, "file"),
        ({"run": "tood_xf"}, "did you mean tood_af"),
        ({"hash": "x"}, "unknown key"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_wrong_declaration(here, change, part):
    entry = {"run": "tood_af", "file": "a.pth", "origin": "mmdet"} | change
    path = here / "a.pth.yaml"
    path.write_text(yaml.safe_dump({"files": [entry]}))
    with pytest.raises(ExperimentError) as error:
        load_released(path, load_runs())
    assert part in str(error.value)
    assert str(path) in str(error.value)


def test_a_file_that_is_declared_twice(here):
    entry = {"run": "tood_af", "file": "a.pth", "origin": "mmdet"}
    (here / "r.yaml").write_text(yaml.safe_dump({"files": [entry, entry]}))
    with pytest.raises(ExperimentError, match=r"a\.pth is declared twice"):
        load_released(here / "r.yaml")


# The choice


def test_the_zoos_file_where_the_authors_is_not_in_place():
    choice = choose("tood_af", FILES.values())
    assert choice.file.file == "tood_r50_fpn_1x_coco_20211210_103425-20e20746.pth"
    (remark,) = choice.remarks
    assert AUTHORS.drive in remark
    assert "by hand and put it at weights/released/TOOD_R_50_FPN_1x.pth" in remark


def test_the_authors_file_where_it_is_in_place():
    put(AUTHORS)
    assert choose("tood_af", FILES.values()) == (AUTHORS, [])


def test_the_users_own_file_goes_before_all():
    put(AUTHORS)
    put(ReleasedFile(run="tood_af", file="tood_af.pth", origin="hand"))
    choice = choose("tood_af", FILES.values())
    assert (choice.file.file, choice.file.origin) == ("tood_af.pth", "hand")


def test_only_by_hand():
    choice = choose("tood_x101_64x4d_dcn", FILES.values())
    assert choice.file is None
    assert "1xYSuZF5RfK81rJImNlTZWbIhPWfb5S5-" in choice.remarks[0]


def test_near_files_are_taken_only_by_name():
    choice = choose("fcos", FILES.values())
    assert choice.file is None
    assert NEAR.near in choice.remarks[0]
    assert f"--config near={NEAR.file}" in choice.remarks[0]
    assert choose("fcos", FILES.values(), [NEAR.file]).file == NEAR
    longer = next(file for file in ZOO if file.run == "tood_af" and file.near)
    put(AUTHORS)
    assert choose("tood_af", FILES.values(), [longer.file]).file == longer


def test_no_file():
    assert choose("tal", FILES.values()) == (None, ["no file was released for it"])


# The plan


def test_a_study_of_released_weights():
    plan = Plan(OPTIONS)
    assert plan.name == "released"
    assert {"tood_af", "retinanet", "atss_ab"} <= {run.id for run in plan.runs}
    assert not {"tal", "fcos", "atss_af"} & {run.id for run in plan.runs}
    assert set(plan.choices) == {run.id for run in Plan({"scale": "paper"}).runs}
    assert list(plan.splits) == ["val"]
    assert plan.initial_weights("tood_af") is None
    assert set(figures(plan, load_tables())) == {"claims", "figure1", "figure4", *VIEWS}
    told = describe_study(plan, {}, [])
    assert AUTHORS.drive in told
    assert "nothing is trained" in told


def test_settings_name_the_file_and_have_its_options():
    plan = Plan(OPTIONS | {"near": NEAR.file})
    settings = plan.settings("fcos")
    assert settings["released"] == NEAR.file
    assert settings["run"]["options"] == NEAR.options
    assert settings == import_job(plan, "fcos", 0).settings == measuring_job(plan, "fcos", 0).settings
    trained = Plan({"scale": "paper"}).settings("fcos")
    assert "released" not in trained
    assert trained["run"]["options"] == {}


def test_the_digest_of_an_import_is_not_that_of_a_training():
    assert deciding_code(Plan(OPTIONS), "tood_af") != deciding_code(Plan({"scale": "paper"}), "tood_af")


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"scale": "smoke"}, ["weights=released", "scale 'smoke'", "add scale=paper"]),
        ({"iterations": 3, "name": "x"}, ["--config iterations", "trains nothing"]),
        ({"batch_size": 3, "name": "x"}, ["--config batch_size"]),
        ({"micro_batch": 2}, ["--config micro_batch"]),
        ({"seeds": "0,1"}, ["--config seeds"]),
        ({"val_images": 3}, ["--config val_images", "name=NAME"]),
        ({"name": "paper"}, ["name=paper", "choose another name"]),
        ({"near": "fcos_r50.pth"}, ["--config near=fcos_r50.pth: unknown file", "near are"]),
        ({"near": ZOO[0].file}, [f"near={ZOO[0].file}", "leave it out"]),
        ({"runs": "tal,mal"}, ["none of these runs has a file", "tal: no file was released"]),
        ({"weights": "random", "name": "x", "near": NEAR.file}, ["need weights=released"]),
    ],
    ids=str,
)
def test_options_that_do_not_go_together(options, parts):
    message = refused(**options)
    for part in parts:
        assert part in message, message


def test_a_declaration_of_ones_own(here):
    own = {
        "run": "tal",
        "file": "tal-12345678.pth",
        "origin": "other",
        "address": "http://a.b/tal-12345678.pth",
    }
    (here / "mine.yaml").write_text(yaml.safe_dump({"files": [own]}))
    plan = Plan(OPTIONS | {"released": "mine.yaml"})
    assert [run.id for run in plan.runs] == ["tal"]
    assert plan.released("tal").source().address == own["address"]
    assert RELEASED.name == "released.yaml"


# The tables


def test_rows_of_released_weights_say_what_they_are(here):
    plan = Plan(OPTIONS | {"runs": "tood_af,tood_ab,tal,fcos,atss_ab", "near": NEAR.file})
    write_manifest(StudyPaths("released").manifest, "coco", [])
    for run in ("tood_af", "fcos"):
        paths, file = StudyPaths("released").run(run, 0), plan.released(run)
        digests = expected_digests(plan, run)
        facts = file.model_dump(exclude_none=True, exclude={"options"}) | {"sha256": f"{file.digest}ffff"}
        write_json(paths.state, {"state": "released", "updated": 0})
        write_json(paths.provenance, {"digests": digests, "released": facts})
        measured = dict.fromkeys(("AP", "AP50", "AP75"), 42.0)
        evaluated = {"evaluation": evaluation_digest("ap.json", None)}
        write_json(paths.ap, {**measured, "digests": digests | evaluated})
    write_json(StudyPaths("released").run("atss_ab", 0).state, {"state": "failed", "reason": "does not fit"})
    write_results(plan, here / "no complexity")
    tables = StudyPaths("released").tables

    frame = pd.read_csv(tables / "table3.csv").set_index("run")
    assert frame.loc["tood_af", ["status", "AP"]].tolist() == ["released", 42.0]
    assert (
        frame.loc["tood_af", "released"] == "tood_r50_fpn_1x_coco_20211210_103425-20e20746.pth 20e20746ffff"
    )
    assert (frame["status"].drop("tood_af").isin(["pending", "failed"])).all()
    assert frame.loc["atss_ab", "status"] == "failed"
    text = (tables / "table3.md").read_text().replace("\\", "")
    assert "| TOOD<sup>" in text or "<sup>a</sup>" in text
    for part in (
        "Released, not trained here: tood_r50_fpn_1x_coco_20211210_103425-20e20746.pth of mmdetection's zoo",
        "sha256 20e20746ffff",
        "AP as stated there: 42.4 on val2017.",
        "Nothing was trained",
        "atss_ab, seed 0, failed: does not fit",
    ):
        assert part in text, part
    text = (tables / "table2.md").read_text().replace("\\", "")
    assert f"Near: {NEAR.near}" in text
    assert "tal: no file was released for it" in text
    assert pd.read_csv(tables / "table2.csv").set_index("run").loc["tal", "status"] == "pending"


def test_tables_of_other_studies_have_no_column_of_files(here):
    write_results(Plan({}), here / "no complexity")
    assert "released" not in pd.read_csv(StudyPaths("smoke").tables / "table3.csv")
