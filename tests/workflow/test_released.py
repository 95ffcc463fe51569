"""A table from downloads: files of a server on this machine, through the whole workflow."""

import json
import shutil

import pandas as pd
import pytest
import torch
import yaml
from helpers.server import serving
from helpers.zoo import in_authors_names, mmdet_model, publish, with_optimizer, zoo_config

from tood.study.released import load_released

RUNS = ("tood_af", "retinanet", "atss_ab")
ZOO = {file.run: file for file in load_released().values() if file.fetched and not file.near}
HOST = "download.example.org"


@pytest.fixture(scope="module")
def downloads(new_workspace, photographs, tmp_path_factory):
    """A workspace, what the server was asked, and the outcome of each call.

    The declaration is one of the test's own, as names of published files hold the hash of their content.
    """
    folder, workspace = tmp_path_factory.mktemp("zoo"), new_workspace()
    declared, served = [], {}
    for run in RUNS:
        model = mmdet_model(zoo_config(ZOO[run].file))
        content = {"meta": {"epoch": 12}, "state_dict": model.state_dict()}
        if run == "tood_af":  # as the authors released it
            content |= {
                "state_dict": in_authors_names(content["state_dict"]),
                "optimizer": with_optimizer(model),
            }
        path = publish(content, folder, f"{run}_1x_coco", old=run != "tood_af")
        served[f"/{HOST}/zoo/{path.name}"] = path.read_bytes()
        facts = {"run": run, "file": path.name, "AP": 40.0, "set": "val2017"}
        declared.append(facts | {"origin": "other", "address": f"https://{HOST}/zoo/{path.name}"})
    declared.append({"run": "tood_ab", "file": "TOOD_ab.pth", "origin": "authors", "drive": "1G3W"})
    (workspace.path / "mine.yaml").write_text(yaml.safe_dump({"files": declared}))
    options = ("scale=paper", "weights=released", "released=mine.yaml", "name=downloads", "val_images=2")
    images = shutil.copytree(photographs, tmp_path_factory.mktemp("images") / "coco")
    (images / "annotations/image_info_test-dev2017.json").unlink()  # so that something is to be fetched
    options = (*options, f"data_root={images}", "device=cpu")
    with serving() as server:
        server.files = served
        server.cuts = {path: [1_000_000] for path in served}
        environment = {"TOOD_MIRROR": server.address, "OMP_NUM_THREADS": "1"}
        fetched = workspace.run("snakemake", "download", "--cores", "2", "--config", *options, **environment)
        asked = list(server.requests)
        server.requests.clear()
        server.files = {}
        done = workspace.run("snakemake", "--cores", "2", "--config", *options, **environment)
        again = workspace.run("snakemake", "--cores", "2", "--config", *options, **environment)
        assert server.requests == []  # the study itself needs no network any more
    return workspace, asked, fetched, done, again, folder


@pytest.mark.slow
def test_a_table_from_downloads(downloads):
    workspace, asked, fetched, done, again, folder = downloads
    names = {run: next(folder.glob(f"{run}_*.pth")).name for run in RUNS}

    # Each file was cut off after its first megabyte, and resumed. This server has no COCO.
    for name in names.values():
        assert (f"/{HOST}/zoo/{name}", None) in asked
        assert (f"/{HOST}/zoo/{name}", "bytes=1000000-") in asked
        path = workspace.path / "weights/released" / name
        assert path.read_bytes() == (folder / name).read_bytes()
        assert json.loads(path.with_name(f"{name}.origin.json").read_text())["address"].endswith(name)
    assert fetched.returncode != 0
    lacking = "/images.cocodataset.org/annotations/image_info_test2017.zip: the server answers 404"
    assert lacking in fetched.stdout

    assert done.returncode == 0, done.stdout
    assert "fetch https://drive.google.com/file/d/1G3W by hand and put it at" in done.stdout
    assert "trained" not in done.stdout.replace("nothing is trained", "")
    assert again.returncode == 0
    assert "Nothing to be done" in again.stdout

    results = workspace.path / "results/downloads"
    for table, run in (("table3", "tood_af"), ("table1", "atss_ab"), ("table2", "retinanet")):
        frame = pd.read_csv(results / f"tables/{table}.csv").set_index("run")
        row = frame.loc[run]
        assert row["status"] == "released"
        assert row["released"].startswith(f"{names[run]} {names[run][-12:-4]}")
        assert row[["AP", "AP50", "AP75"]].between(0, 100).all()
        others = frame.drop(index=[name for name in RUNS if name in frame.index])
        assert set(others["status"]) == {"pending"}
        text = (results / f"tables/{table}.md").read_text().replace("\\", "")
        assert f"Released, not trained here: {names[run]} of another release" in text
        assert "AP as stated there: 40.0 on val2017." in text
    notes = (results / "tables/table3.md").read_text().replace("\\", "")
    assert "tood_ab: TOOD_ab.pth of the TOOD authors' release is not in place" in notes
    assert "Nothing was trained" in notes
    assert pd.read_csv(results / "tables/table6.csv").set_index("run").loc["tood_af", "status"] == "released"
    for file in ("report.html", "figures/figure1.png", "metrics.csv"):
        assert (results / file).is_file()

    model = torch.load(workspace.path / "work/downloads/runs/tood_af/seed0/model.pth", weights_only=True)
    published = torch.load(folder / names["tood_af"], weights_only=True)["state_dict"]
    ours = model["state_dict"]["bbox_head.predictor.cls_decomposition.attention.0.weight"]
    assert torch.equal(ours, published["bbox_head.cls_decomp.la_conv1.weight"])

    shown = workspace.run("tood", "progress")
    assert shown.stdout.count("released") >= 3
    one = workspace.run("tood", "show", "tood_af")
    assert names["tood_af"] in one.stdout
    assert "sha256" in one.stdout


def test_downloads_need_no_gpu(workspace, tmp_path):
    """Of the machine that downloads: a login node has none, whatever the scale's jobs ask for."""
    options = ("scale=paper", "runs=tood_af", "name=x", f"data_root={tmp_path / 'coco'}")
    with serving() as server:
        environment = {"TOOD_MIRROR": server.address, "CUDA_VISIBLE_DEVICES": ""}
        outcome = workspace.run("snakemake", "download", "--cores", "1", "--config", *options, **environment)
    assert outcome.returncode != 0
    assert "needs a GPU" not in outcome.stdout
    assert "weights: resnet50-0676ba61.pth cannot be fetched" in outcome.stdout
    assert [path for path, _ in server.requests] == ["/download.pytorch.org/models/resnet50-0676ba61.pth"]
