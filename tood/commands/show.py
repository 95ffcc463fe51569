"""`tood show`: everything that is known of one run."""

import argparse
from typing import Any

from tood.commands.options import add_json, add_study
from tood.ledger.status import Status, call_of, load_study, moment, read_status
from tood.runtime.failures import State
from tood.runtime.files import finite, to_json
from tood.study.declarations import ExperimentError, cells_of, load_tables, unknown_run
from tood.study.plan import Plan


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("run", metavar="RUN", help="id such as tood_af; `tood runs` lists them")
    parser.add_argument("--seed", type=int, metavar="K", help="show this seed only")
    add_study(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Print what is known, as lines or as JSON."""
    print(show_run(options.run, options.name, options.seed, options.json))
    return 0


def show_run(run_id: str, name: str | None = None, seed: int | None = None, as_json: bool = False) -> str:
    """Everything known of a run: state, results, provenance, and the files they are in.

    Args:
        run_id: id of a run in `experiments/runs.yaml`.
        name: name of the study; None takes the study that was called last.
        seed: seed to show; None shows all seeds of the study.
        as_json: whether to return a list of objects, one per seed, instead of text.
    """
    plan = load_study(name)
    if run_id not in plan.all_runs:
        raise ExperimentError(unknown_run(run_id, plan.all_runs))
    run = plan.all_runs[run_id]
    cells = cells_of(run_id, load_tables(runs=plan.all_runs))
    seeds = plan.seeds_of(run_id) if seed is None else [seed]
    facts = [_facts(read_status(plan, run_id, number), plan) for number in seeds]
    if as_json:
        return to_json(facts, indent=2, ensure_ascii=False)
    head = {"run": f"{run_id}: {run.title}", "cells": "; ".join(cells), "study": plan.name}
    return "\n\n".join([_lines(head), *map(_lines, facts)])


def _facts(status: Status, plan: Plan) -> dict:
    """Everything known of one seed, in the order of output."""
    facts: dict[str, Any] = {
        "run": status.run.id,
        "seed": status.seed,
        "state": status.state,
        "reason": status.reason,
    }
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
            value = "–"
        lines.append(f"{indent}{key:<{width}}{value}")
    return "\n".join(lines)
