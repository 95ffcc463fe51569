"""Runs with values of their configurations changed, as `options` of a call gives them.

What is given is compared with the run's whole configuration at the study's scale: a key must be in it, and a
value has the type of the one that it replaces. Nothing here runs a configuration.
"""

import json
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import yaml

from tood.runtime.text import did_you_mean
from tood.study.declarations import ExperimentError, unknown_run
from tood.study.paths import CONFIGS
from tood.study.scales import merged
from tood.study.settings import Settings
from tood.study.source_files import config_settings

Options = dict[str, dict[str, Any]]  # by run and dotted key, the values as they were given

_EXAMPLE = "tood_af.model.train_cfg.alpha=2"
_NEXT = re.compile(r",\s*(?=\w+\.[\w.]+=)")  # before another key; a list has commas too
_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")
DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,4})?")
_PARTS = ("model", "input", "train")  # of a configuration
_TRUTH = {"true": True, "false": False}
# What is set after the configuration, or for all runs of a study alike, and how else to change it
_ELSEWHERE = {
    "model.bbox_head.num_classes": "the data say it; classes= takes some of theirs",
    "model.backbone.init_cfg": "weights= says what backbones start from",
    "train.batch_size": "batch_size= sets it for all runs",
    "train.lr": "lr= sets it for all runs",
    "train.precision": "precision= sets it for all runs",
}


class Change(NamedTuple):
    """A value of a configuration and what it becomes."""

    before: Any
    now: Any


# What was given


def parse_variations(given: object) -> Options:
    """`RUN.KEY=VALUE,RUN.KEY=VALUE`, or the same as mappings, whose keys may have dots.

    Raises:
        ValueError: it is neither, or a key is there twice.
    """
    if isinstance(given, str) and given.startswith("{"):  # as Snakemake passes a profile's mapping on
        try:
            given = yaml.safe_load(given)
        except yaml.YAMLError as error:
            raise ValueError(f"cannot be read as YAML: {' '.join(str(error).split())}") from None
    options: Options = {}
    for run, key, value in _typed_pairs(given) if isinstance(given, str) else _pairs_of(given):
        if key in options.setdefault(run, {}):
            raise ValueError(f"{run}.{key} is given twice; omit one")
        options[run][key] = value
    if not any(options.values()):
        raise ValueError(f"changes nothing; write RUN.KEY=VALUE, such as {_EXAMPLE}, or omit it")
    return options


def _typed_pairs(text: str) -> Iterator[tuple[str, str, str]]:
    for part in _NEXT.split(text.strip()):
        place, equals, value = part.partition("=")
        run, dot, key = place.strip().partition(".")
        if not (equals and dot and run and key and value):
            raise ValueError(f"{part!r}: write RUN.KEY=VALUE, such as {_EXAMPLE}")
        yield run, key, value.strip()


def _pairs_of(given: object) -> Iterator[tuple[str, str, Any]]:
    for place, value in _leaves(given, lists=False):
        run, _, key = place.partition(".")
        if not key or isinstance(value, dict):
            raise ValueError("must have runs, keys and values, such as {tood_af: {model.train_cfg.alpha: 2}}")
        yield run, key, value


def typed_text(options: Mapping[str, Mapping[str, Any]]) -> str:
    """Variations as they are typed."""
    return ",".join(
        f"{run}.{key}={shown(value)}" for run, changed in options.items() for key, value in changed.items()
    )


# Against the configuration


def variations(
    options: Options,
    in_study: Collection[str],
    runs: Collection[str],
    settings_of: Callable[[str], Settings],
) -> dict[str, dict[str, Change]]:
    """What is changed of each run of a study.

    Args:
        options: as they were given.
        in_study: runs that the study has.
        runs: all that are declared.
        settings_of: gives those of a run without variation.

    Raises:
        ExperimentError: there is no such run, the study has it not, or as for `changes`.
    """
    varied = {}
    for run, given in options.items():
        word = f"--config options={typed_text({run: given})[:100]}"
        if run not in runs:
            raise ExperimentError(f"{word}: {unknown_run(run, runs)}")
        if run not in in_study:
            raise ExperimentError(f"{word}: the study has no run {run}; add it to runs=, or omit the option")
        if changed := changes(run, given, settings_of(run)):
            varied[run] = changed
    return varied


def changes(run: str, given: Mapping[str, Any], settings: Settings) -> dict[str, Change]:
    """What is changed of a run, by dotted key; a value that is there already is no change.

    Args:
        run: id.
        given: values by key.
        settings: of the run without them.

    Raises:
        ExperimentError: the configuration has no such key, or a value does not fit it.
    """
    try:
        config = configuration(settings)
    except ValueError as error:
        raise ExperimentError(
            f"--config options={run}...: {error}; declare a run of its own (CONTRIBUTING.md)"
        ) from None
    known = dict(_leaves(config))
    differences = {}
    for key, value in given.items():
        word = f"--config options={typed_text({run: {key: value}})[:100]}"
        if where := next((where for own, where in _ELSEWHERE.items() if f"{key}.".startswith(f"{own}.")), ""):
            raise ExperimentError(f"{word}: {where}")
        if key not in known:
            raise ExperimentError(f"{word}: {settings['run']['config']} has {_instead(key, known)}")
        try:
            now = _like(known[key], value)
        except ValueError as error:
            raise ExperimentError(f"{word}: {error}; {key} is {shown(known[key])}") from None
        if now != known[key]:
            differences[key] = Change(known[key], now)
    return differences


def configuration(settings: Settings) -> dict[str, Any]:
    """`model`, `input` and `train` of a run, in the order in which `tood.engine.config.resolve` merges them.

    Raises:
        ValueError: the configuration is not only literals.
    """
    config = _plain(config_settings(CONFIGS / settings["run"]["config"]))
    head = config["model"]["bbox_head"]
    if head.get("norm_cfg", {}) is None:
        del head["norm_cfg"]
    parts: dict[str, Any] = {key: settings[key] for key in _PARTS}  # type: ignore[literal-required]
    heads = {"model": {"bbox_head": settings["heads"].get(head["type"], {})}}
    config = merged(merged({key: config[key] for key in parts}, parts), heads)
    for key, value in settings["run"]["options"].items():
        config = _replaced(config, key.split("."), value)
    return config


def _plain(value: Any) -> Any:
    """A copy without what steers mmengine's merging."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items() if key != "_delete_"}
    return [_plain(entry) for entry in value] if isinstance(value, list | tuple) else value


def _replaced(node: Any, steps: Sequence[str], value: Any) -> Any:
    if not steps:
        return value
    first, *rest = steps
    if isinstance(node, list):
        return [_replaced(e, rest, value) if str(i) == first else e for i, e in enumerate(node)]
    return {**node, first: _replaced(node.get(first, {}), rest, value)}


def _leaves(node: Any, place: str = "", lists: bool = True) -> Iterator[tuple[str, Any]]:
    """The values below a mapping by their dotted keys; mappings in a list have its indices in them."""
    if lists and isinstance(node, list | tuple) and any(isinstance(entry, dict) for entry in node):
        node = dict(enumerate(node))
    if not isinstance(node, dict) or not node:
        yield place, node
        return
    for key, entry in node.items():
        yield from _leaves(entry, f"{place}.{key}" if place else str(key), lists)


def _instead(key: str, known: Mapping[str, Any]) -> str:
    """What a configuration has in place of a value with this key, as the end of a sentence."""
    if below := [name for name in known if name.startswith(f"{key}.")]:
        return f"a group of values under {key}; name one of them, such as {below[0]}"
    if ends := [name for name in known if name.endswith(f".{key}")]:
        return f"no key {key}; did you mean {' or '.join(ends[:3])}?"
    meant = did_you_mean(key, known) or f"its keys begin with {', '.join(_PARTS)}"
    return f"no key {key}; {meant.strip()}"


def _like(model: Any, value: Any) -> Any:
    """A value in the type of another one, which it may have as text.

    Raises:
        ValueError: it has another type.
    """
    if model is None:
        return _guessed(value)
    if isinstance(model, dict):
        raise ValueError("is an empty group of values")
    if isinstance(model, list | tuple):
        entries = _entries(value)
        first = next((entry for entry in model if entry is not None), None)
        return [_like(first, entry) for entry in entries]
    if isinstance(value, list | tuple | dict) or value is None:
        raise ValueError("must be one value")
    if isinstance(model, str):
        if isinstance(value, str) and value and not value.startswith("["):
            return value
        raise ValueError("must be a text")
    text = str(value).lower()
    if isinstance(model, bool):
        if text not in _TRUTH:
            raise ValueError("must be true or false")
        return _TRUTH[text]
    pattern, kind = (_WHOLE, "a whole number") if isinstance(model, int) else (DECIMAL, "a number")
    if isinstance(value, bool) or not pattern.fullmatch(text) or not math.isfinite(float(text)):
        raise ValueError(f"must be {kind}")
    return int(text) if isinstance(model, int) else float(text)


def _guessed(value: Any) -> Any:
    """A value in place of None, which says nothing of types."""
    if isinstance(value, str):
        if value.startswith("["):
            return [_guessed(entry) for entry in _entries(value)]
        if value.lower() in _TRUTH:
            return _TRUTH[value.lower()]
        model = 0 if _WHOLE.fullmatch(value) else 0.0 if DECIMAL.fullmatch(value) else ""
        return _like(model, value)
    if value is None or isinstance(value, dict):
        raise ValueError("must be one value or a list")
    return [_guessed(e) for e in value] if isinstance(value, list | tuple) else _like(value, value)


def _entries(value: Any) -> list[Any]:
    """The entries of a list, which may be given as text."""
    if isinstance(value, str) and value.startswith("["):
        try:
            value = yaml.load(value, Loader=yaml.BaseLoader)  # which leaves the entries as they are written
        except yaml.YAMLError:
            value = None
    if not isinstance(value, list | tuple) or not value or any(isinstance(entry, dict) for entry in value):
        raise ValueError("must be a list of values, such as [1, 2]")
    return list(value)


def shown(value: Any) -> str:
    """A value as it is typed."""
    return value if isinstance(value, str) else json.dumps(value)


def sentence(run: str, changed: Mapping[str, Change]) -> str:
    """What a reader of results must know of a varied run."""
    parts = (f"{key} is {shown(now)} in place of {shown(before)}" for key, (before, now) in changed.items())
    return f"{run} is varied: {', '.join(parts)}."
