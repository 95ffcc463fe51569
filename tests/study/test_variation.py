"""Variations of runs by `options`: what is taken, what is refused, and that nothing else changes."""

import json
import shlex
import shutil
from pathlib import Path

import pytest
from helpers.records import finish

from tood.cli import main
from tood.engine.config import resolve
from tood.ledger.plans import save_study
from tood.ledger.records import read_record
from tood.ledger.status import call_of, read_status
from tood.report.metrics import reshaped
from tood.runtime.files import write_json
from tood.study.declarations import ExperimentError, load_runs
from tood.study.options import parse_options, parse_study
from tood.study.paths import StudyPaths
from tood.study.plan import Plan
from tood.study.variation import Change, configuration

ALPHA = "model.train_cfg.alpha"


def varied(*words: str, **options: object) -> Plan:
    given = {"name": "varied", "runs": "tood_af,atss_af"} | options
    return Plan(given | parse_options([f"options={word}" for word in words]))


def refused(*words: str, **options: object) -> str:
    with pytest.raises(ExperimentError) as caught:
        varied(*words, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# The configuration that keys and types are of


@pytest.mark.parametrize("scale", ["smoke", "paper"])
@pytest.mark.parametrize("run", load_runs())
def test_the_configuration_is_that_of_a_training(run, scale):
    settings = Plan({"scale": scale, "runs": run}).settings(run)
    resolved = resolve(settings, [{"id": 1, "name": "a"}], None).to_dict()
    found = configuration(settings)
    for part in (found["model"]["backbone"], resolved["model"]["backbone"]):
        part.pop("init_cfg", None)
    found["model"]["bbox_head"]["num_classes"] = 1
    # In proportion to the size, and a share of the batch
    for configured in (found, resolved):
        configured["input"].pop("train_short_sides")
        configured["train"].pop("replica")
    wanted = {key: resolved[key] for key in ("model", "input", "train")}
    assert json.loads(json.dumps(found)) == json.loads(json.dumps(wanted))


# What is taken


@pytest.mark.parametrize(
    ("word", "before", "now"),
    [
        (f"{ALPHA}=2", 1.0, 2.0),
        (f"{ALPHA}=1e-1", 1.0, 0.1),
        ("model.train_cfg.assigner.topk=9", 13, 9),
        ("model.backbone.norm_eval=True", False, True),
        ("model.neck.add_extra_convs=on_input", "on_output", "on_input"),
        ("model.bbox_head.anchor_generator.strides=[4, 8,32]", [4, 8, 16], [4, 8, 32]),
        ("train.grad_clip=5", 10.0, 5.0),
        ("input.size=[32,48]", [64, 64], [32, 48]),
    ],
)
def test_a_value_has_the_type_of_the_one_that_it_replaces(word, before, now):
    plan, key = varied(f"tood_af.{word}"), word.partition("=")[0]
    assert plan.variations == {"tood_af": {key: Change(before, now)}}
    assert type(plan.variations["tood_af"][key].now) is type(now)
    assert plan.settings("tood_af")["run"]["options"] == {key: now}


def test_none_says_nothing_of_types():
    plan = varied("tood_af.train.grad_clip=35", scale="paper")
    assert plan.variations["tood_af"]["train.grad_clip"] == Change(None, 35)


def test_entries_of_lists_of_mappings_have_an_index():
    plan = varied("ota_r50.model.bbox_head.init_cfg.override.1.bias=2", runs="ota_r50")
    resolved = resolve(plan.settings("ota_r50"), [{"id": 1, "name": "a"}], None)
    assert resolved.model.bbox_head.init_cfg.override[1].bias == 2.0
    assert resolved.model.bbox_head.init_cfg.override[0].bias_prob == 0.01


@pytest.mark.parametrize(
    "given",
    [
        f"tood_af.{ALPHA}=2,tood_af.model.train_cfg.beta=4, atss_af.input.flip=.25",
        {"tood_af": {ALPHA: 2, "model.train_cfg.beta": 4.0}, "atss_af": {"input": {"flip": 0.25}}},
        {"tood_af": {"model": {"train_cfg": {"alpha": 2, "beta": 4}}}, "atss_af.input.flip": 0.25},
        # As Snakemake passes a mapping of a profile on
        "{'tood_af': {'model.train_cfg': {'alpha': 2, 'beta': 4}}, 'atss_af': {'input.flip': 0.25}}",
    ],
)
def test_the_same_may_be_typed_or_nested(given):
    assert Plan({"name": "x", "options": given}).variations == {
        "tood_af": {ALPHA: Change(1.0, 2.0), "model.train_cfg.beta": Change(6.0, 4.0)},
        "atss_af": {"input.flip": Change(0.5, 0.25)},
    }


def test_several_words_are_one_option():
    words = [f"tood_af.{ALPHA}=2", "atss_af.input.flip=.25"]
    assert varied(*words).study == varied(",".join(words)).study
    assert parse_options(["options=", "options=a.b=1"]) == {"options": "a.b=1"}
    assert parse_options(["name=a", "name=b"]) == {"name": "b"}


def test_a_value_of_the_run_itself_is_replaced():
    plan = varied("tood_m9.model.train_cfg.assigner.topk=11", runs="tood_m9")
    assert plan.settings("tood_m9")["run"]["options"] == {"model.train_cfg.assigner.topk": 11}
    assert plan.variations["tood_m9"]["model.train_cfg.assigner.topk"] == Change(9, 11)


def test_nothing_else_changes():
    plan, plain = varied(f"tood_af.{ALPHA}=2"), Plan({})
    assert plan.settings("atss_af") == plain.settings("atss_af")
    assert plan.settings("tood_af") | {"run": plain.settings("tood_af")["run"]} == plain.settings("tood_af")
    assert plain.study.model_dump(exclude_none=True) == {"scale": "smoke"}
    assert varied(f"tood_af.{ALPHA}=1.0").settings("tood_af") == plain.settings("tood_af")


def test_readers_are_told():
    assert f"tood_af is varied: {ALPHA} is 2.0 in place of 1.0." in varied(f"tood_af.{ALPHA}=2").notes()
    paper = {"scale": "paper", "name": "x", "options": {"tood_af": {ALPHA: 2}}}
    assert Plan({"scale": "paper"}).tolerance
    assert Plan(paper).tolerance is None


def test_counted_parameters_are_not_those_of_another_network():
    assert reshaped(varied(f"tood_af.{ALPHA}=2")) == set()
    assert reshaped(varied("tood_af.model.bbox_head.stacked_convs=2", "atss_af.input.flip=0")) == {"tood_af"}


# What is refused


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("tood_f.model.train_cfg.alpha=2", "unknown run 'tood_f'; did you mean tood_af"),
        ("fcos.input.flip=0", "the study has no run fcos; add it to runs=, or omit the option"),
        ("tood_af.train_cfg.alpha=2", f"tood.py has no key train_cfg.alpha; did you mean {ALPHA}?"),
        (
            "tood_af.model.train_cfg.alphas=2",
            "no key model.train_cfg.alphas; did you mean model.train_cfg.alpha",
        ),
        ("tood_af.nothing=2", "no key nothing; its keys begin with model, input, train"),
        ("tood_af.model.train_cfg=2", "a group of values under model.train_cfg; name one of them, such as"),
        (f"tood_af.{ALPHA}=[1,2]", f"must be a number; {ALPHA} is 1.0"),
        (f"tood_af.{ALPHA}=two", "must be a number"),
        (f"tood_af.{ALPHA}=true", "must be a number"),
        (f"tood_af.{ALPHA}=inf", "must be a number"),
        ("tood_af.model.train_cfg.assigner.topk=9.5", "must be a whole number"),
        ("tood_af.model.backbone.norm_eval=1", "must be true or false; model.backbone.norm_eval is false"),
        ("tood_af.input.size=64", "must be a list of values, such as [1, 2]; input.size is [64, 64]"),
        ("tood_af.input.size=[64", "must be a list of values"),
        ("tood_af.input.size=[64,x]", "must be a whole number"),
        ("tood_af.model.neck.type=[FPN]", "must be a text"),
        ("tood_af.model.bbox_head.num_classes=3", "the data say it"),
        ("tood_af.model.backbone.init_cfg.checkpoint=x.pth", "weights= says what backbones start from"),
        ("tood_af.train.lr=1", "lr= sets it for all runs"),
        ("tood_af.input.train_short_sides=1", "is an empty group of values"),
        ("tood_af=2", "write RUN.KEY=VALUE, such as tood_af.model.train_cfg.alpha=2"),
        ("tood_af.input.flip", "write RUN.KEY=VALUE"),
        ("tood_af.input.flip=0,tood_af.input.flip=1", "tood_af.input.flip is given twice; omit one"),
        ("tood_af.model.neck.type=$(touch X)", "shells and Snakemake read as their own"),
    ],
)
def test_one_message_says_what_is_wrong(word, said):
    message = refused(word)
    assert message.startswith("--config options=")
    assert said in message


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"tood_af": 3}, "must have runs, keys and values"),
        ({"tood_af": {ALPHA: {}}}, "must have runs, keys and values"),
        ({"tood_af": {ALPHA: None}}, "must be one value"),
        ({"tood_af": {ALPHA: [1, 2]}}, "must be one value"),
        ({"tood_af": {ALPHA: float("nan")}}, "must be a number"),
        ({"tood_af": {"model.neck.type": 3}}, "must be a text"),
        ({"tood_af": {"input.size": [[1], 2]}}, "must be one value"),
        ({"tood_af": {"input": {"flip": 0}, "input.flip": 1}}, "tood_af.input.flip is given twice"),
        ({}, "must have runs, keys and values"),
        (3, "must have runs, keys and values"),
        ([1], "must have runs, keys and values"),
    ],
)
def test_values_of_a_file(value, said):
    assert said in refused(options=value)


def test_a_variation_needs_a_name_of_its_own():
    said = "--config options: numbers obtained so are not those of scale 'smoke'; give the study a name"
    assert said in refused(f"tood_af.{ALPHA}=2", name=None)
    assert "name=smoke: that is a scale's" in refused(f"tood_af.{ALPHA}=2", name="smoke")


def test_released_weights_are_not_varied():
    said = refused(f"tood_af.{ALPHA}=2", scale="paper", weights="released")
    assert said == "--config options: weights=released trains nothing; omit it"


# In a study


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_call_of_a_study_has_its_variations(folder):
    options = {"tood_af": {ALPHA: 2, "input.size": [32, 48]}, "atss_af": {"model.neck.type": "FPN"}}
    plan = Plan({"name": "x", "runs": "tood_af,atss_af", "options": options})

    def called(**changes: object) -> Plan:
        words = shlex.split(call_of(plan, **changes))
        return Plan(parse_options(words[words.index("--config") + 1 :]))

    assert called().variations == plan.variations
    assert called(runs="atss_af", seeds=1).study.options == {"atss_af": {"model.neck.type": "FPN"}}
    assert called(runs=("tal",)).study.options is None
    # A run with a record is one of the study, also when a call is of others.
    write_json(StudyPaths("x").record("tood_af", 0), {})
    assert called(runs="tal").variations == {"tood_af": plan.variations["tood_af"]}


def test_another_variation_makes_results_stale_and_other_runs_keep_theirs(folder):
    plain = Plan({"runs": "tood_af,atss_af"})
    for run in ("tood_af", "atss_af"):
        finish(plain, run, 0)
    plan = varied(f"tood_af.{ALPHA}=2")
    assert read_status(plan, "tood_af", 0).state == "pending"
    assert read_status(plan, "atss_af", 0).state == "done"  # by the record of the scale's study
    record = finish(plan, "tood_af", 0)
    assert read_record(record).provenance["settings"]["run"]["options"] == {ALPHA: 2.0}
    for here in (True, False):  # by the files of the run, and by its record
        assert read_status(plan, "tood_af", 0).state == "done"
        assert read_status(varied(f"tood_af.{ALPHA}=3"), "tood_af", 0).stale == ["settings"]
        assert read_status(plain, "tood_af", 0).state == "done"
        if here:
            unvaried = read_status(varied(), "tood_af", 0)
            assert unvaried.record.path == StudyPaths("smoke").record("tood_af", 0)
            shutil.rmtree(StudyPaths("varied").runs)


def test_show_has_the_variation(folder, capsys):
    plan = varied(f"tood_af.{ALPHA}=2")
    finish(plan, "tood_af", 0)
    save_study(plan)

    def shown(*words: str) -> str:
        assert main(["show", *words, "--name", "varied"]) == 0
        return capsys.readouterr().out

    assert f"{ALPHA} 2.0 in place of 1.0" in shown("tood_af")
    (facts,) = json.loads(shown("tood_af", "--json"))
    assert facts["varied"] == {ALPHA: {"before": 1.0, "now": 2.0}}
    assert "in place of" not in shown("atss_af")
    assert parse_study(json.loads(StudyPaths("varied").options.read_text())) == plan.study
