"""`tood compare`: the runs that two studies share, and their differences seed by seed."""

import argparse
from pathlib import Path

from tood.commands.options import add_json, print_json
from tood.runtime.failures import InputError
from tood.runtime.files import write_text
from tood.runtime.text import aligned


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument(
        "studies", nargs=2, metavar="STUDY", help="names; the second minus the first is shown"
    )
    parser.add_argument(
        "--metric",
        action="append",
        metavar="M",
        help="as in metrics.csv, or all; may be repeated; default: AP",
    )
    parser.add_argument("--output", type=Path, metavar="FILE.csv", help="also write every column as CSV")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Print the differences as aligned lines, or as JSON."""
    # pandas and SciPy are imported here, so that the help needs neither.
    from tood.report.two_studies import NOTE, compare_studies
    from tood.study.paths import RESULTS

    if options.output and options.output.suffix != ".csv":
        raise InputError(f"--output {options.output}: must end in .csv")
    metrics = options.metric or ["AP"]
    first, second = options.studies
    frame = compare_studies(RESULTS, first, second, [] if "all" in metrics else metrics)
    if options.output:
        write_text(options.output, frame.to_csv(index=False, float_format="%.8g"))
    rows = frame.to_dict("records")
    if options.json:
        print_json(rows)
        return 0
    print(f"{second} minus {first}")
    for metric in dict.fromkeys(row["metric"] for row in rows):
        print(f"\n{_table(metric, [row for row in rows if row['metric'] == metric], first, second)}")
    print(f"\n{NOTE}")
    if options.output:
        print(f"written to {options.output}")
    return 0


def _table(metric: str, rows: list[dict], first: str, second: str) -> str:
    from tood.report.claims_table import shown_p
    from tood.report.two_studies import number_format

    spec = number_format(metric)
    header = (metric, "seeds", first, second, "difference", "95% interval", "Welch's", "p", "Holm's p")
    body = [
        (
            row["run"],
            row["seeds"],
            *(_shown(row[name], spec) for name in ("first", "second")),
            _shown(row["mean"], f"+{spec}"),
            _interval(row["low"], row["high"], spec),
            _interval(row["welch_low"], row["welch_high"], spec),
            shown_p(row["p"]),
            shown_p(row["holm_p"]),
        )
        for row in rows
    ]
    return aligned([header, *body], right=range(1, len(header)))


def _shown(value: float, spec: str) -> str:
    return "–" if value != value else format(value, spec)


def _interval(low: float, high: float, spec: str) -> str:
    return "–" if low != low else f"{format(low, f'+{spec}')} to {format(high, f'+{spec}')}"
