"""`tood runs`: every run of the paper and then others, and where their results are shown."""

import argparse

from tood.commands.options import add_json
from tood.runtime.files import to_json
from tood.runtime.text import aligned
from tood.study.declarations import cells_of, load_runs, load_tables


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Print the runs as aligned lines, or as JSON."""
    print(list_runs(options.json))
    return 0


def list_runs(as_json: bool = False) -> str:
    """Every run with the cells it feeds, as aligned text or as JSON."""
    runs = load_runs()
    tables = load_tables(runs=runs)
    cells = {name: cells_of(name, tables) for name in runs}
    if as_json:
        declared = [run.model_dump() | {"cells": cells[run.id]} for run in runs.values()]
        return to_json(declared, indent=2, ensure_ascii=False)
    header = ("id", "backbone", "epochs", "cells")
    rows = [
        (
            run.id,
            run.backbone,
            run.epochs,
            "; ".join(cells[run.id]) + " (reconstruction)" * run.reconstruction,
        )
        for run in runs.values()
    ]
    lines = aligned([header, *rows]).splitlines()
    others = [runs[name].in_paper for name in runs].count(False)
    return "\n".join([*lines[:-others], "", "Not of the paper:", *lines[-others:]] if others else lines)
