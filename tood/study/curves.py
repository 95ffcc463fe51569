"""What a training wrote while it went on: `losses.jsonl`, a JSON object a record."""

from pathlib import Path

import pandas as pd


def positives_by_epoch(path: Path) -> pd.DataFrame:
    """Positives of an object and their mean IoU in each epoch of a training.

    Args:
        path: `losses.jsonl`; its records hold `epoch` (passed, fractional), `objects`, `positives` and
            `positive_iou`, means over the objects of one batch.

    Returns:
        columns epoch (from 1), positives, positive_iou (nan where no object had any); batches weigh by
        their number of objects; epochs without objects are left out
    """
    records = pd.read_json(path, lines=True)
    # A record is written after the iteration that passes its epoch, so the last of an epoch is whole.
    records["epoch"] = (records["epoch"] - 1e-6).astype(int) + 1
    means = records[["positives", "positive_iou"]].astype(float)
    # A batch counts for what it has: objects without positives have a number, 0, and no IoU.
    weights = means.notna().mul(records["objects"], axis=0)
    sums = (means * weights).groupby(records["epoch"]).sum()
    return sums.div(weights.groupby(records["epoch"]).sum()).dropna(how="all").reset_index()
