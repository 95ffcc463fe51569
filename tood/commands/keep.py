"""`tood keep`: the weights of a run beside its record, where git can have them."""

import argparse

from tood.commands.options import add_study
from tood.ledger.kept_weights import keep_weights, kept_weights
from tood.ledger.plans import load_study
from tood.study.declarations import ExperimentError, unknown_run
from tood.study.paths import StudyPaths
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
    training = Training(options.run, seed)
    paths = StudyPaths(plan.name)
    if not paths.run(*training).model.is_file() and (kept := kept_weights(paths.record(*training))):
        print(f"{kept}: the weights are kept already; they are those of {kept.stem}.json, by their checksum")
        return 0
    path = keep_weights(plan.name, training)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB; commit it together with {path.stem}.json")
    return 0
