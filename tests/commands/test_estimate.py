"""What runs cost: arithmetic by hand, assumptions against their sources, measured trainings instead."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from helpers.gpus import ARCHITECTURES

from tood.cli import main
from tood.commands import estimate as estimate_module
from tood.commands.estimate import claimed, cost_of, describe, estimate, table_names
from tood.engine.config import build_model, resolve
from tood.runtime.device import has_code_for
from tood.runtime.files import write_json
from tood.study.claims import load_claims
from tood.study.declarations import ExperimentError, load_runs, load_tables, select_runs
from tood.study.paths import StudyPaths
from tood.study.plan import Plan, Training
from tood.study.planning import PLANNING, load_planning, relative_pixels

REPOSITORY = Path(__file__).parents[2]
RUNS = load_runs()
TABLES = load_tables(runs=RUNS)
ASSUMED = load_planning(RUNS)
CAPABILITIES = {"V100": (7, 0), "A100": (8, 0), "H100": (9, 0), "H200": (9, 0)}  # by NVIDIA's tables


@pytest.fixture
def empty(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def trained(run: str, hours: float, seed: int = 0, scale: str = "paper", gpus: int = 1, **changes) -> None:
    """The provenance of a training that took so many GPU-hours on an H100, or on a CPU without GPUs."""
    content = {
        "run": run,
        "settings": {"iterations": None},
        "seconds": hours * 3600 / max(1, gpus),
        "hardware": {
            "device": "NVIDIA H100 80GB HBM3" if gpus else "cpu",
            "gpus": gpus,
            "gpu_names": ["NVIDIA H100 80GB HBM3"] * gpus,
            "cpu": "Some CPU",
        },
    }
    write_json(StudyPaths(scale).run(run, seed).provenance, content | changes)


def runs_of(*tables: str) -> list[str]:
    return [run.id for run in select_runs(tables, RUNS, TABLES)]


def near(*span: float):
    return pytest.approx(span, rel=1e-9)


# In one sentence


def test_the_cost_of_a_call_is_that_of_its_trainings(empty):
    plan = Plan({"scale": "paper", "runs": "tood_af,atss_af", "data_root": "x"})
    trained("tood_af", 9.0)
    assert cost_of(plan, plan.trainings[:1]).startswith(
        "1 training to do: 9 GPU-hours on NVIDIA H100 80GB HBM3, "
    )
    longer = Plan({"scale": "paper", "name": "x", "runs": "tood_af", "data_root": "x", "schedule": 2})
    assert cost_of(longer, longer.trainings).startswith("1 training to do: 18 GPU-hours on ")
    assert cost_of(plan, plan.trainings[:1]).endswith(", measured here.")
    assert cost_of(plan, []) == "Nothing is to be trained."


def test_the_cost_of_a_call_says_what_is_assumed_or_not_known(empty):
    plan = Plan({"scale": "paper", "runs": "tood_af", "data_root": "x"})
    low, high = estimate("paper", "3")["study"]["gpu_hours"]
    assert "GPU-hours on A100" in cost_of(plan, plan.trainings)
    assert cost_of(plan, plan.trainings).endswith("assumed and not measured (`tood plan`).")
    whole = [Training(run, 0) for run in runs_of("table3")]
    assert f"{low:,.0f}–{high:,.0f} GPU-hours" in cost_of(plan, whole)
    cut = Plan({"runs": "tood_af", "name": "x", "iterations": 3})
    assert cost_of(cut, cut.trainings) == "1 training to do, each stopped after 3 iterations."


def test_of_data_of_ones_own_only_trainings_of_the_study_count(empty):
    """Each for the epochs that it had: three times those of the run."""
    own = Plan({"runs": "tood_af,atss_af", "name": "x", "data_root": "x", "schedule": 3})
    trained("tood_af", 1.0, scale="smoke", gpus=0)
    assert "is known once one of them has finished" in cost_of(own, own.trainings)
    settings = {"iterations": None, "run": {"epochs": 3 * own.all_runs["tood_af"].epochs}}
    trained("tood_af", 6.0, scale="x", gpus=0, settings=settings)
    assert cost_of(own, own.trainings) == "2 trainings to do: 12 hours on CPU (Some CPU), measured here."


def test_a_study_under_another_name_knows_its_own_trainings_too(empty):
    plan = Plan({"runs": "tood_af", "name": "sweeps/x", "data_seed": 1})
    assert "is known once one of them has finished" in cost_of(plan, plan.trainings)
    trained("tood_af", 1.0, scale="sweeps/x", gpus=0)
    trained("tood_af", 2.0, scale="smoke", seed=1, gpus=0)
    assert cost_of(plan, plan.trainings).startswith("1 training to do: 1.5 hours on ")


# Which runs


def test_the_runs_on_which_the_papers_claims_rest():
    """All of Tables 1, 3, 4, 6 and the sweep of m; of Table 2 two, of Table 5 four for deformable layers."""
    found = claimed(load_claims(RUNS, TABLES), RUNS)
    expected = {
        *runs_of("table1", "table3", "table4", "table6", "table_m"),
        "paa_iou",
        "tal_tap_18e",
    }
    expected |= {f"{name}_x101_64x4d{layers}" for name in ("atss", "tood") for layers in ("", "_dcn")}
    assert set(found) == expected
    assert len(found) == len(expected)


def test_tables_share_runs(empty):
    assert table_names("1,3 m table6", TABLES) == ["table1", "table3", "table_m", "table6"]
    assert len(runs_of("table1", "table3", "table6")) == 11
    found = estimate("paper", "1,3,6")["study"]
    assert (len(found["runs"]), found["epochs"]) == (11, 132)
    with pytest.raises(ExperimentError, match=r"--tables 7: no such table; .*there are .*table6, table_m"):
        table_names("7", TABLES)
    with pytest.raises(ExperimentError, match=r"--tables : no such table; there are "):
        estimate("paper", ",")


def test_every_run_of_the_paper_by_default(empty):
    found = estimate("paper")["study"]
    assert found["runs"] == [name for name, run in RUNS.items() if run.in_paper]
    assert found["epochs"] == sum(RUNS[run].epochs for run in found["runs"])
    assert sum(group["runs"] for group in found["by_backbone"]) == len(found["runs"])


# Assumed


def test_the_assumed_throughput_is_that_of_its_sources():
    slow, fast = ASSUMED.throughput.images_per_second
    assert slow == pytest.approx(90_000 * 16 / (6.5 * 3600) / 8, abs=0.05)
    assert fast == pytest.approx(16 / 0.450 / 4, abs=0.05)


def test_the_assumed_cost_of_backbones_is_that_of_its_sources():
    speeds = dict(
        zip(ASSUMED.backbones, (19.4, 15.6, 13.1, 9.2, 12.6, 10.1, 6.7), strict=True)  # in the README's table
    )
    training = (0.712 / 0.450) / (19.4 / 15.6)
    assert training == pytest.approx(1.27, abs=0.005)
    for name, speed in speeds.items():
        low, high = ASSUMED.backbones[name].time
        assert low == pytest.approx(19.4 / speed, abs=0.01), name
        assert high == pytest.approx(low if name == "ResNet-50" else low * training, abs=0.015), name


@pytest.mark.parametrize("name", ASSUMED.backbones)
def test_the_parameters_of_backbones_are_those_of_their_models(name):
    settings = Plan({"scale": "paper"}).settings("tood_af")
    config = resolve(settings, [{"id": number, "name": str(number)} for number in range(80)], None)
    if "101" in name:
        config.model.backbone.update(depth=101)
    if "X" in name:
        config.model.backbone.update(type="ResNeXt", groups=32 if "32x4d" in name else 64, base_width=4)
    if name.endswith("DCN"):
        layer = dict(type="tood.ModulatedDeformConv2d", deform_groups=1, fallback_on_stride=False)
        config.model.backbone.update(dcn=layer, stage_with_dcn=(False, True, True, True))
    with torch.device("meta"):
        parameters = sum(one.numel() for one in build_model(config).parameters())
    assert ASSUMED.backbones[name].parameters_m == round(parameters / 1e6, 1)


def test_hours_by_hand(empty):
    found = estimate("paper", "3", "V100")
    # Two runs of TOOD and two of ATSS, 12 epochs each, ResNet-50
    hours = [48 * 118_287 / speed / 3600 for speed in (8.9, 7.7)]
    assert found["study"]["gpu_hours"] == near(*hours)
    assert found["study"]["days"] == near(hours[0] / 24, hours[1] / 24)
    assert (found["device"], found["measured"]) == ("V100", [])
    assert found["basis"][0].startswith(
        "Assumed, not measured here: 7.7 to 8.9 images per second on one V100"
    )


def test_the_days_that_the_page_on_gpus_says(empty):
    """Both of its sections have cards that the plan does not know, and name the slowest that it knows."""
    page = " ".join((REPOSITORY / "docs/gpus.md").read_text().split())
    speeds = ASSUMED.gpus.gigabytes_per_second
    assert min(speeds, key=speeds.get) == "V100"
    for gpus, option in ((1, ""), (4, " --gpus 4")):
        days = estimate("paper", gpu="V100", gpus=gpus)["study"]["days"]
        assert f"`tood plan --gpu V100{option}` estimates {days[0]:.0f} to {days[1]:.0f} days" in page


def large_epochs() -> float:
    """Epochs of the rows with ResNet-101, each times the pixels of its images relative to `tood_af`'s."""
    pixels = relative_pixels()
    rows = {row.run for row in TABLES["table5"].rows if RUNS[row.run].backbone == "ResNet-101"}
    return sum(RUNS[run].epochs * pixels[run] for run in rows)


def test_a_run_without_a_row_of_padding(empty, monkeypatch):
    monkeypatch.setattr(estimate_module, "relative_pixels", lambda: {})
    with pytest.raises(ExperimentError, match=r"padding\.csv: no row of \w+; `tood padding` writes it"):
        estimate_module.estimate("paper", "3")


def test_a_larger_backbone_costs_more(empty):
    groups = {group["backbone"]: group for group in estimate("paper", "5", "V100")["study"]["by_backbone"]}
    per_epoch = {
        name: [side / group["epochs"] for side in group["gpu_hours"]] for name, group in groups.items()
    }
    larger = large_epochs() / groups["ResNet-101"]["epochs"]
    low, high = per_epoch["ResNet-101"]
    assert low == pytest.approx(1.24 * larger * 118_287 / 8.9 / 3600)
    assert high == pytest.approx(1.58 * larger * 118_287 / 7.7 / 3600)
    assert per_epoch["ResNeXt-101-64x4d-DCN"] > per_epoch["ResNeXt-101-64x4d"] > per_epoch["ResNet-101"]


def test_another_gpu_by_its_bandwidth(empty):
    slow, fast = estimate("paper", "3", "v100")["study"]["gpu_hours"][::-1]
    low, high = estimate("paper", "3", "a100")["study"]["gpu_hours"]
    assert low == pytest.approx(fast / (1555 / 900))
    assert high == pytest.approx(slow / (1555 / 900) / 0.667)
    with pytest.raises(ExperimentError, match=r"--gpu K80: nothing was measured .* there are V100, A100"):
        estimate("paper", gpu="K80")


def test_several_gpus_train_several_runs_but_each_run_on_one(empty):
    one, four, many = (estimate("paper", "3", gpus=number)["study"]["days"] for number in (1, 4, 400))
    assert four == near(one[0] / 4, one[1] / 4)
    assert many == near(*four)  # four trainings, equally long


def test_nothing_is_assumed_for_drawn_images(empty):
    found = estimate("mini")
    assert (found["study"]["gpu_hours"], found["study"]["days"], found["device"]) == (None, None, None)
    mini = Plan({"scale": "mini"})
    assert found["study"]["runs"] == [run.id for run in mini.runs]
    assert found["study"]["epochs"] == sum(RUNS[run].epochs for run, _ in mini.trainings)
    assert found["basis"][0].startswith("Nothing is known of the time: no training of mini has finished here")
    assert "unknown GPU-hours" in describe(found)


# Measured


def test_a_finished_training_counts_instead(empty):
    trained("tood_af", 24.0)
    trained("tood_af", 36.0, seed=1)  # 30 hours in the mean, 2.5 per epoch
    found = estimate("paper", "3")
    assert (found["device"], found["measured"]) == ("NVIDIA H100 80GB HBM3", ["tood_af"])
    assert found["study"]["gpu_hours"] == near(4 * 30, 4 * 30)
    assert found["basis"][0].startswith("Measured: trainings of 1 runs that finished on NVIDIA H100")
    longer = estimate("paper", "5")["study"]["by_backbone"][0]
    assert longer["gpu_hours"] == near(large_epochs() * 2.5 * 1.24, large_epochs() * 2.5 * 1.58)


def test_several_gpus_on_one_run_are_counted(empty):
    trained("tood_af", 32.0, gpus=4)  # 8 hours of wall time
    assert estimate("paper", "3")["study"]["gpu_hours"] == near(4 * 32, 4 * 32)


def test_a_measured_run_of_a_larger_backbone_tells_of_the_smaller_one(empty):
    trained("tood_r101", 24 * 3.1)
    found = estimate("paper", "3")["study"]["gpu_hours"]
    smaller = 1 / relative_pixels()["tood_r101"]
    assert found == near(smaller * 48 * 3.1 / 1.58, smaller * 48 * 3.1 / 1.24)
    assert estimate("paper", "5")["study"]["gpu_hours"][0] > 24 * 3.1


@pytest.mark.parametrize("changes", [{"seconds": None}, {"settings": {"iterations": 300}}])
def test_a_training_that_did_not_go_through_all_epochs_does_not_count(empty, changes):
    trained("tood_af", 24.0, **changes)
    assert estimate("paper", "3")["device"] == "A100"


def test_what_is_assumed_works_with_the_torch_that_is_installed(empty):
    """A V100, of which the published throughput is, does not."""
    found = estimate("paper", "3")
    assert (found["device"], found["measured"]) == ("A100", [])
    assert found == estimate("paper", "3", "a100")
    assert "8.9 to 15.4 images per second on one A100 with ResNet-50" in found["basis"][0]
    assert has_code_for(CAPABILITIES[found["device"]], ARCHITECTURES)
    assert not has_code_for(CAPABILITIES["V100"], ARCHITECTURES)


def test_gpus_are_not_mixed(empty):
    trained("tood_af", 24.0)
    found = estimate("paper", "3", "A100")
    assert (found["device"], found["measured"]) == ("A100", [])
    assert estimate("paper", "3", "h100")["measured"] == ["tood_af"]


def test_a_small_study_on_a_cpu(empty):
    trained("tood_af", 0.1, scale="smoke", gpus=0)
    found = estimate("smoke", "3")
    assert found["device"] == "CPU (Some CPU)"
    assert found["study"]["gpu_hours"] == near(0.4, 0.4)
    assert found["study"]["disk_gib"] == {}
    assert "  hours" in describe(found).splitlines()[2]


# Disk, and the command


def test_disk_by_hand(empty):
    found = estimate("paper", "3", gpus=2)["study"]["disk_gib"]
    assert found["weights of trained runs"] == pytest.approx(2 * 4 * 4 * 32.2e6 / 2**30)
    assert found["checkpoints of 2 trainings at a time"] == pytest.approx(2 * 3 * 8 * 32.2e6 / 2**30)
    assert found["data: train2017"] == 18


def test_the_command(empty, capsys):
    assert main(["plan", "--tables", "3", "--gpus", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(estimate("paper", "3", gpus=2)))
    assert main(["plan", "--tables", "3", "--gpu", "V100", "--gpus", "2"]) == 0
    text = capsys.readouterr().out
    assert "ResNet-50     4      48    177–205" in text
    assert "2 at a time, one run on each: 3.7–4.3 days" in text
    assert "own claims rest: 26 runs, 372 epochs, 1,716–2,201 GPU-hours" in text
    assert main(["plan", "--scale", "papr"]) == 2
    assert "did you mean paper?" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["plan", "--gpus", "0"])
    assert "0 is no whole number above 0" in capsys.readouterr().err


def test_it_needs_neither_torch_nor_pandas(poison):
    program = (
        "import sys; from tood.cli import main; main(['plan', '--json'])\n"
        "print({'torch', 'mmdet', 'pandas', 'snakemake'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": f"{poison}:{REPOSITORY}", "PATH": ""},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "set()\n")
    assert not (poison / "imported").exists()


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("backbones",), {}, r"backbones: no entry for ResNeXt-101-32x4d"),
        (("throughput", "images_per_second"), [8.9, 7.7], r"\[8\.9, 7\.7\] is no range .*smaller one first"),
        (("throughput", "gpu"), "K80", r"gigabytes_per_second lacks K80; add it"),
        (("throughput", "gpus"), 1, r"throughput: gpus: unknown key"),
    ],
)
def test_a_file_with_an_error(tmp_path, place, value, message):
    content = yaml.safe_load(PLANNING.read_text())
    target = content
    for step in place[:-1]:
        target = target[step]
    target[place[-1]] = value
    (tmp_path / "planning.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ExperimentError, match=rf"planning\.yaml: .*{message}"):
        load_planning(RUNS, tmp_path / "planning.yaml")
