"""Values of `--config`: read as they were typed, or refused with what to write."""

from pathlib import Path

import pytest

from tood.data.validation import Split
from tood.study.declarations import ExperimentError
from tood.study.options import Study, check_data, parse_options, parse_study
from tood.study.plan import Plan
from tood.study.scales import load_scale

LOCAL = {"scale": "smoke", "data_root": "data", "name": "x"}


def refused(**options: object) -> str:
    with pytest.raises(ExperimentError) as error:
        parse_study(options)
    message = str(error.value)
    assert "\n" not in message
    return message


# What Snakemake, YAML or Python would make another value of
WORDS = [
    *("2024_01", "202401", "3.10", "3.1", "1e3", "1000", "0x10", "16", "010", "10", "yes", "on", "null"),
    *("true", "2024-01-01", "nan", "inf", "None", "True", "-1", "1_0", "con", "a.", "1."),
]


def test_every_word_is_a_name_of_its_own():
    names = [parse_study(parse_options([f"name={word}"])).name for word in WORDS]
    assert names == WORDS


def test_studies_that_vary_another_one_have_a_folder_together():
    assert Plan({"name": "sweeps/mini_lr0.02"}).name == "sweeps/mini_lr0.02"
    with pytest.raises(ExperimentError, match="name=sweeps: is a folder of studies; write name=sweeps/NAME"):
        Plan({"name": "sweeps"})
    for name in ("sweeps/", "sweeps/a/b", "other/a", "/a", "sweeps/../a"):
        with pytest.raises(ExperimentError, match="name="):
            Plan({"name": name})


@pytest.mark.parametrize("key", ["data_root", "released"])
@pytest.mark.parametrize(
    "word", [*WORDS, "12:30", "my data", "/data/größe/图", "a,b", "[a]", "#1", "~", "a: b"]
)
def test_paths_are_those_that_were_typed(key, word):
    assert getattr(parse_study(parse_options([f"{key}={word}"])), key) == Path(word)


def test_splits_and_lists():
    study = parse_study(
        parse_options(["train=12:30", "val=010:1e3", "seeds=01,2", "runs=[a, 'b']", "near=c d"])
    )
    assert (tuple(study.train), tuple(study.val)) == (("12", "30"), ("010", "1e3"))
    assert (study.seeds, study.runs, study.near) == ((1, 2), ("a", "b"), ("c", "d"))


@pytest.mark.parametrize("word", ['"2024_01"', "'2024_01'", "2024_01"])
def test_quotes_around_a_value_are_no_part_of_it(word):
    assert parse_options([f"name={word}"]) == {"name": "2024_01"}


@pytest.mark.parametrize("word", ["", '""', "''"])
def test_an_empty_value_is_the_default(word):
    assert parse_study(parse_options([f"runs={word}", f"name={word}"])) == Study()


def test_a_word_without_a_value():
    with pytest.raises(ExperimentError, match=r"--config name: must be KEY=VALUE"):
        parse_options(["name"])


@pytest.mark.parametrize(
    ("key", "value"), [("name", 202401), ("name", 3.1), ("name", True), ("data_root", 7), ("released", 1.5)]
)
def test_what_a_file_of_yaml_retyped_is_refused(key, value):
    message = refused(**{key: value})
    assert f"--config {key}={value!r}: YAML reads it as {type(value).__name__}" in message
    assert "put it in quotes" in message


@pytest.mark.parametrize("key", ["scale", "data_root", "train", "val", "released", "runs", "near"])
@pytest.mark.parametrize(
    "part", ["{x}", "}", "$(touch X)", "`X`", "\\", "a'b", 'a"b', "\n", "\x00", "\x1b[1m", "\udcff"]
)
def test_what_a_shell_or_snakemake_would_read_is_refused(key, part):
    message = refused(**{key: f"a:{part}b"})
    assert message.startswith(f"--config {key}=a:")
    assert "a brace or a control character" in message
    assert message.isprintable()


@pytest.mark.parametrize("key", ["data_root", "train", "val"])
def test_paths_of_a_scale_are_plain_too(key):
    scale = load_scale("smoke")
    value = Path("data/{x}") if key == "data_root" else Split("{x}.json", "images")
    with pytest.raises(ExperimentError, match=rf"scale 'smoke': {key}: holds a quote, .* a brace"):
        check_data(Study(), scale.model_copy(update={key: value}))


NUMBERS = (
    "data_seed",
    "seeds",
    "gpus",
    "micro_batch",
    "iterations",
    "batch_size",
    "val_images",
    "image_size",
)


@pytest.mark.parametrize("key", NUMBERS)
@pytest.mark.parametrize(
    "word",
    ["-1", "true", "1e9", "0x10", "1.5", "1_000", "inf", "nan", "9" * 30, "9" * 5000, "four", "٣", "+"],
)
def test_whole_numbers(key, word):
    if (key, word) != ("image_size", "0x10"):  # 0 by 10, and `check_data` has the bounds
        assert refused(**LOCAL | {key: word}).startswith(f"--config {key}={word[:100]}")


@pytest.mark.parametrize("key", NUMBERS)
@pytest.mark.parametrize("value", [True, 1.5, float("nan"), float("inf"), -1])
def test_whole_numbers_of_a_file(key, value):
    if (key, value) != ("image_size", -1):  # whose bounds `check_data` has
        assert refused(**LOCAL | {key: value}).startswith(f"--config {key}={value!r}")


@pytest.mark.parametrize("key", ["lr", "schedule"])
@pytest.mark.parametrize(
    "word",
    [
        "inf",
        "-inf",
        "nan",
        "1e300",
        "1e-300",
        "0",
        "-1",
        "true",
        "1_0",
        "0x1p3",
        True,
        float("inf"),
        float("nan"),
    ],
)
def test_decimal_numbers(key, word):
    assert refused(**{key: word}).startswith(f"--config {key}={word}")


@pytest.mark.parametrize(
    ("word", "value"), [("1e-3", 0.001), (".5", 0.5), ("2", 2.0), ("0.04", 0.04), ("3.", 3.0)]
)
def test_decimal_numbers_as_they_are_written(word, value):
    assert parse_study({"lr": word, "schedule": word}).schedule == value


@pytest.mark.parametrize("key", ["runs", "seeds", "near"])
@pytest.mark.parametrize("word", [",", " ", "[]", []])
def test_a_list_of_nothing_is_not_the_default(key, word):
    assert refused(**{key: word}).startswith(f"--config {key}=")


@pytest.mark.parametrize("name", ["a/b", "..", ".a", "a b", "é", "а", "", "a\n", "x" * 101])
def test_names_are_those_of_plain_folders(name):
    assert refused(name=name).startswith("--config name=")
