"""`tood keep`: the weights of a run beside its record, where git can have them."""

import argparse

from tood.commands.options import add_study
from tood.ledger.kept_weights import keep_weights
from tood.ledger.plans import load_study
from tood.study.declarations import ExperimentError, unknown_run
from tood.study.plan import Training


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("run", metavar="RUN", help="of the study, such as tood_af")
    parser.add_argument("--seed", type=int, metavar="K", help="of the run; default: its first in the study")
    add_study(parser)


def run(options: argparse.Namespace) -> int:
    """Copy the weights, and print where they are and how large."""
    plan = load_study(options.name)
    if options.run not in plan.all_runs:
        raise ExperimentError(unknown_run(options.run, plan.all_runs))
    seed = plan.seeds_of(options.run)[0] if options.seed is None else options.seed
    path = keep_weights(plan.name, Training(options.run, seed))
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB; commit it together with {path.stem}.json")
    return 0
