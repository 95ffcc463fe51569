"""What a training wrote while it went on: `losses.jsonl`, a JSON object a record."""

from pathlib import Path

import pandas as pd


def positives_by_epoch(path: Path) -> pd.DataFrame:
    """Positives of an object and their mean IoU in each epoch of a training.

    Args:
        path: `losses.jsonl`; its records hold `epoch` (passed, fractional), `objects`, `positives` and
            `positive_iou`, means over the objects of one batch.

    Returns:
        columns epoch (from 1), positives, positive_iou; batches weigh by their number of objects
    """
    records = pd.read_json(path, lines=True)
    # A record is written after the iteration that passes its epoch, so the last of an epoch is whole.
    records["epoch"] = (records["epoch"] - 1e-6).astype(int) + 1
    columns = ["positives", "positive_iou"]
    counted = records.dropna(subset=columns)
    weighted = counted[columns].mul(counted["objects"], axis=0).assign(epoch=counted["epoch"])
    sums = weighted.groupby("epoch")[columns].sum()
    return sums.div(counted.groupby("epoch")["objects"].sum(), axis=0).reset_index()
