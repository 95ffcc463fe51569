"""`tood show`: what is known of one run, on a screen; `--full` shows everything."""

import argparse
import math
from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from tood.commands.options import add_json, add_study, print_json
from tood.commands.studies import study_header
from tood.ledger.plans import load_study
from tood.ledger.status import Status, call_of, moment, read_status
from tood.runtime.failures import State
from tood.runtime.files import finite
from tood.runtime.text import aligned, duration
from tood.study.declarations import ExperimentError, cells_of, load_tables, unknown_run
from tood.study.paths import ALIGNMENT, AP
from tood.study.plan import Plan
from tood.study.variation import shown

_METRICS = ("AP", "AP50", "AP75")
_COLUMNS = ("seed", "state", *_METRICS, "epoch", "time", "device", "finished")
_ABSENT = "–"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("run", metavar="RUN", help="id such as tood_af; `tood runs` lists them")
    parser.add_argument("--seed", type=int, metavar="K", help="show this seed only")
    parser.add_argument(
        "--full", action="store_true", help="show settings, digests, machine, packages and files, too"
    )
    add_study(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Print the state and the results of a run, where they are from, and its files, as lines or as JSON."""
    plan = load_study(options.name)
    if options.run not in plan.all_runs:
        raise ExperimentError(unknown_run(options.run, plan.all_runs))
    chosen = plan.all_runs[options.run]
    seeds = plan.seeds_of(chosen.id) if options.seed is None else [options.seed]
    statuses = [read_status(plan, chosen.id, seed) for seed in seeds]
    if options.json:
        print_json([_facts(status, plan) for status in statuses])
        return 0
    print(f"{chosen.id}: {chosen.title}")
    print(study_header(plan, options.name, chosen.id))
    cells = {"cells": "; ".join(cells_of(chosen.id, load_tables(runs=plan.all_runs)))}
    if options.full:
        print(_lines(cells))
        for status in statuses:
            print(f"\n{_lines(_facts(status, plan))}")
        return 0
    print(f"\n{aligned([_COLUMNS, *map(_row, statuses), *_means(statuses)])}\n")
    print(_lines(cells | _in_short(plan, statuses)))
    named = f" --name {options.name}" if options.name else ""
    print(f"settings, digests, machine, packages and files: tood show {chosen.id} --full{named}")
    return 0


def _row(status: Status) -> list[str]:
    """The values of _COLUMNS."""
    report, made = status.report, status.provenance
    measured = status.results[AP].metrics if AP in status.results else {}
    seconds, finished = report.get("seconds"), made.get("finished")
    epoch = report.get("epoch")
    return [
        *(str(status.seed), status.state),
        *(_number(measured.get(metric)) for metric in _METRICS),
        _ABSENT if epoch is None else f"{epoch}/{report.get('epochs')}",
        _ABSENT if seconds is None else duration(seconds),
        report.get("device") or _ABSENT,
        _ABSENT if finished is None else moment(finished),
    ]


def _number(value: float | None) -> str:
    return _ABSENT if value is None or math.isnan(value) else f"{value:.1f}"


def _means(statuses: Sequence[Status]) -> list[list[str]]:
    """A row with mean and standard deviation over the seeds, if there are several."""
    cells = []
    for metric in _METRICS:
        values = [s.results[AP].metrics.get(metric) for s in statuses if AP in s.results]
        known = [value for value in values if value is not None and not math.isnan(value)]
        cells.append(f"{mean(known):.1f} ± {stdev(known):.1f}" if len(known) > 1 else "")
    return [["mean ± SD", "", *cells, *[""] * (len(_COLUMNS) - 2 - len(cells))]] if any(cells) else []


def _in_short(plan: Plan, statuses: Sequence[Status]) -> dict[str, str]:
    """What decides how to read the numbers, and where they are from."""
    first, several = statuses[0], len(statuses) > 1
    facts = {}
    if varied := plan.variations.get(first.run.id):
        facts["varied"] = "; ".join(
            f"{key} {shown(now)} in place of {shown(before)}" for key, (before, now) in varied.items()
        )
    for reason in dict.fromkeys(status.reason for status in statuses if status.reason):
        seeds = [str(status.seed) for status in statuses if status.reason == reason]
        facts[f"why ({', '.join(seeds)})" if several else "why"] = reason
    if pending := [s.seed for s in statuses if s.state == State.PENDING and not s.results]:
        call = call_of(plan, runs=first.run.id, seeds=pending)
        facts["imported by" if plan.imports else "trained by"] = call
    of_seed = f"  (seed {first.seed})" if several else ""
    return facts | {key: text + of_seed for key, text in _of_one_training(first).items()}


def _of_one_training(status: Status) -> dict[str, str]:
    """The values of Table 6 of a training, what it was made with, and where its files are."""
    facts = {}
    if ALIGNMENT in status.results:
        values = status.results[ALIGNMENT].metrics
        facts["Table 6"] = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
    if status.provenance:
        facts["made with"] = _made_with(status.provenance)
    if status.record:
        facts["record"] = status.record.path.as_posix()
    if any(status.folder.glob("*")):
        facts["files"] = status.folder.as_posix()
    return facts


def _made_with(made: Mapping[str, Any]) -> str:
    """Settings, data and machine of a training in one line."""
    settings, hardware, git = (made.get(key) or {} for key in ("settings", "hardware", "git"))
    if released := made.get("released"):
        return f"{released.get('file')}, sha256 {released.get('sha256')}"
    train, data = settings.get("train") or {}, made.get("data") or {}
    commit = str(git.get("commit") or "")[:7] + (" and changes" if git.get("dirty") else "")
    splits = (f"{split['images']} images ({name})" for name, split in data.items() if _counted(split))
    parts = [
        (settings.get("run") or {}).get("config"),
        *(f"{key} {train[key]}" for key in ("batch_size", "lr") if key in train),
        *splits,
        ", ".join(hardware.get("gpu_names") or []) or hardware.get("cpu"),
        f"commit {commit}" if commit else "",
    ]
    return ", ".join(part for part in parts if part)


def _counted(split: object) -> bool:
    return isinstance(split, dict) and "images" in split


def _facts(status: Status, plan: Plan) -> dict:
    """Everything known of one seed, in the order of output."""
    facts: dict[str, Any] = {
        "run": status.run.id,
        "seed": status.seed,
        "state": status.state,
        "reason": status.reason,
    }
    if varied := plan.variations.get(status.run.id):
        facts["varied"] = {key: change._asdict() for key, change in varied.items()}
    choice = plan.choices.get(status.run.id)
    if choice and not choice.file:
        facts["released"] = "; ".join(choice.remarks)
    elif status.state == State.PENDING and not status.results:
        call = call_of(plan, runs=status.run.id, seeds=status.seed)
        facts["imported by" if plan.imports else "trained by"] = call
    if status.report:
        report = {key: value for key, value in status.report.items() if key not in facts}
        facts["import" if plan.imports else "training"] = report
    for name, result in status.results.items():
        facts[name] = finite(result.metrics)
        if result.stale:
            facts[name]["stale"] = result.stale
    if status.record:
        facts["record"] = status.record.path.as_posix()
    if status.provenance:
        facts["provenance"] = status.provenance
    files = sorted(path for path in status.folder.rglob("*") if path.is_file())
    facts["files"] = [str(path) for path in files if not path.name.startswith(".")]
    return {key: value for key, value in facts.items() if value not in ("", [])}


def _lines(facts: dict, indent: str = "") -> str:
    """One line per key and value; a mapping is indented below its key."""
    lines = []
    width = max(map(len, facts)) + 2
    for key, value in facts.items():
        if isinstance(value, dict) and value:
            lines += [f"{indent}{key}", _lines(value, indent + "  ")]
            continue
        if key in ("started", "updated", "finished") and isinstance(value, int | float):
            value = moment(value)
        elif isinstance(value, float):
            value = f"{value:.6g}"
        elif isinstance(value, list):
            separator = ("\n" + indent + " " * width) if key == "files" else ", "
            value = separator.join(str(entry) for entry in value)
        if value is None or value in ("", {}):
            value = _ABSENT
        lines.append(f"{indent}{key:<{width}}{value}")
    return "\n".join(lines)
