"""`tood report`: tables and `report.html` of a study from what is there."""

import argparse

from tood.commands.options import add_study
from tood.commands.studies import study_header
from tood.ledger.plans import load_study
from tood.report.everything import render_what_is_there
from tood.runtime.failures import InputError
from tood.study.declarations import load_tables
from tood.study.paths import StudyPaths


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    add_study(parser)


def run(options: argparse.Namespace) -> int:
    """Write tables and report."""
    plan = load_study(options.name)
    if not render_what_is_there(plan, load_tables(runs=plan.all_runs)):
        raise InputError(f"report: no training of {plan.name} ever started here; there is nothing to show")
    print(study_header(plan, options.name))
    print(f"written to {StudyPaths(plan.name).report}")
    return 0
