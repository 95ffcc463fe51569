"""Reads the sources that decide results. Each plan does; forks of a process that did have them already."""

from tood.ledger.code_digest import evaluation_code, training_code
from tood.study.declarations import load_runs
from tood.study.paths import ALIGNMENT, AP, BEST_ANCHORS

for run in load_runs().values():
    training_code(run.config, run.options)
for result in (AP, ALIGNMENT, BEST_ANCHORS):
    evaluation_code(result)
