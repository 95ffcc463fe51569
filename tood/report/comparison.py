"""Our values against the paper's, cell by cell, at a scale where they can be equal."""

from enum import StrEnum

import pandas as pd

from tood.runtime.failures import State
from tood.study.declarations import Table
from tood.study.scales import Tolerance


class Closeness(StrEnum):
    """Of our value to the paper's."""

    WITHIN = "within"
    OUTSIDE = "outside"


def compare(table: Table, frame: pd.DataFrame, tolerance: Tolerance) -> pd.DataFrame:
    """The frame of `tood.report.tables.build` with differences to the paper and verdicts.

    Args:
        frame: one row per row of the table.
        tolerance: metrics that it does not name are not compared.

    Returns:
        The frame with `M_difference` and `M_verdict` (`within`, `outside`) after `M_paper`, for each metric
        compared. A cell is compared where its row is complete, and where both values are of the same images:
        for test-dev2017 ours is the server's score.
    """
    if not table.printed or table.paper_set is None:
        return frame
    compared = frame.copy()
    for metric, limit in tolerance.metrics.items():
        if metric not in table.metrics:
            continue
        ours = [
            values.get(metric if images == "val2017" else f"{metric}_test_dev", float("nan"))
            if values["status"] in (State.DONE, State.RELEASED)
            else float("nan")
            for images, values in zip(frame["paper_set"], frame.to_dict("records"), strict=True)
        ]
        difference = pd.Series(ours, index=frame.index, dtype=float) - frame[f"{metric}_paper"]
        if difference.isna().all():
            continue
        # Rounded as printed, so that 0.5 is no more than 0.5.
        within = difference.abs().round(6) <= limit
        verdict = within.map({True: Closeness.WITHIN, False: Closeness.OUTSIDE}).where(difference.notna(), "")
        place = compared.columns.get_loc(f"{metric}_paper")
        assert isinstance(place, int)
        compared.insert(place + 1, f"{metric}_difference", difference)
        compared.insert(place + 2, f"{metric}_verdict", verdict)
    return compared
