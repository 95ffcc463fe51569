"""`tood runs`: every run of the paper and then others, and where their results are shown."""

import argparse

from tood.commands.options import add_json, print_json
from tood.runtime.text import aligned
from tood.study.declarations import cells_of, load_runs, load_tables


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Print every run with the cells it feeds, as aligned lines or as JSON."""
    runs = load_runs()
    tables = load_tables(runs=runs)
    cells = {name: cells_of(name, tables) for name in runs}
    if options.json:
        print_json([each.model_dump() | {"cells": cells[each.id]} for each in runs.values()])
        return 0
    rows = [("id", "backbone", "epochs", "cells")]
    for each in runs.values():
        shown = "; ".join(cells[each.id]) + " (reconstruction)" * each.reconstruction
        rows.append((each.id, each.backbone, str(each.epochs), shown))
    lines = aligned(rows).splitlines()
    first_other = 1 + sum(each.in_paper for each in runs.values())  # the runs of the paper come first
    print("\n".join(lines[:first_other]))
    if others := lines[first_other:]:
        print("\n".join(["", "Not of the paper:", *others]))
    return 0
