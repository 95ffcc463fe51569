"""What a training wrote while it went on: `losses.jsonl`, a JSON object a line."""

from pathlib import Path

from tood.ledger.forms import Entry
from tood.runtime.files import parse_line

# Means over the objects of one batch, of which there are `objects`
_OF_OBJECTS = ("positives", "positive_iou")


def by_epoch(path: Path) -> list[dict[str, float | None]]:
    """Losses, positives of an object and their mean IoU in each epoch of a training.

    Args:
        path: `losses.jsonl`; its entries hold `epoch` (passed, fractional), `objects`, `positives`,
            `positive_iou` and the losses. The last line may be being written.

    Returns:
        One mapping per epoch: epoch (from 1), objects, positives and positive_iou (None where no object had
        any; batches weigh by their number of objects), and the mean of each loss (None where one was not
        finite). Empty without a file.
    """
    lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
    epochs: dict[int, list[dict]] = {}
    for number, line in enumerate(lines, 1):
        if line.endswith(b"\n"):
            entry = parse_line(path, number, line, Entry)
            # An entry is written after the iteration that passes its epoch, so the last of an epoch is whole.
            epochs.setdefault(int(entry["epoch"] - 1e-6) + 1, []).append(entry)
    return [{"epoch": epoch, **_means(entries)} for epoch, entries in epochs.items()]


def _means(entries: list[dict]) -> dict[str, float | None]:
    objects = sum(entry["objects"] for entry in entries)
    means: dict[str, float | None] = {"objects": objects}
    for name in _OF_OBJECTS:
        # Objects without positives have a number, 0, and no IoU.
        weighted = [(entry[name], entry["objects"]) for entry in entries if entry[name] is not None]
        weight = sum(count for _, count in weighted)
        means[name] = sum(value * count for value, count in weighted) / weight if weight else None
    for name in entries[-1]:
        if name.startswith("loss"):
            losses = [entry[name] for entry in entries]
            means[name] = None if None in losses else sum(losses) / len(losses)
    return means
