"""results.json and the table of docs/performance.md."""

import json
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- table: begin -->\n", "<!-- table: end -->\n"
COLUMNS = [
    "benchmark",
    "peer",
    "time",
    "peer's",
    "ratio",
    "target",
    "memory",
    "peer's",
    "floor",
    "time / floor",
]
HEADER = f"| {' | '.join(COLUMNS)} |\n| :--- | :--- |{' ---: |' * (len(COLUMNS) - 2)}\n"
NOTHING = "-"


def merge(path: Path, results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Write results into a file, in place of those of the same name and device; returns all that it holds."""
    kept = json.loads(path.read_text()) if path.is_file() else []
    key = [(result["name"], result["machine"]["device"]) for result in results]
    everything = [each for each in kept if (each["name"], each["machine"]["device"]) not in key] + results
    path.write_text(json.dumps(everything, indent=1) + "\n")
    return everything


def table(results: list[dict[str, Any]]) -> str:
    """The results in Markdown, a table for each machine."""
    text = ""
    machines: list[dict] = []
    for result in results:
        if _kind(result["machine"]) not in machines:
            machines.append(_kind(result["machine"]))
    for machine in machines:
        rows = [each for each in results if _kind(each["machine"]) == machine]
        loads = [each["machine"]["load"] for each in rows]
        threads = "one thread" if machine["threads"] == 1 else f"{machine['threads']} threads"
        text += (
            f"{machine['device']}; processor {machine['cpu']}, {machine['cores']} cores, {threads}, "
            f"torch {machine['torch']}; load average {min(loads)} to {max(loads)}.\n\n"
        )
        text += HEADER + "".join(map(_row, rows)) + "\n"
    return text


def _kind(machine: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in machine.items() if key != "load"}


def _row(result: dict[str, Any]) -> str:
    ours, peer = result["ours"], result["peer"]
    floor = result["floor_s"]
    cells = [
        result["title"],
        result["peer_name"] if peer else f"{result['peer_name']}: {result['skipped']}",
        _time(ours),
        _time(peer),
        _numbers((result["ratio"], ".2f"), (result.get("images_per_second"), ".0f")),
        _numbers((result["target"], "g"), (result.get("target_images_per_second"), "g")),
        _memory(ours),
        _memory(peer),
        f"{1000 * floor:.3g} ms",
        f"{ours['median_s'] / floor:.1f}",
    ]
    return f"| {' | '.join(cells)} |\n"


def _numbers(ratio: tuple[float | None, str], images_per_second: tuple[float | None, str]) -> str:
    """A ratio, a rate or both, each with its form."""
    shown = [
        format(value, form) + unit
        for (value, form), unit in ((ratio, ""), (images_per_second, " images/s"))
        if value is not None
    ]
    return ", ".join(shown) or NOTHING


def _time(measured: dict[str, Any] | None) -> str:
    if measured is None:
        return NOTHING
    median, fastest, slowest = (1000 * measured[name] for name in ("median_s", "fastest_s", "slowest_s"))
    return f"{median:.0f} ms ({fastest:.0f} to {slowest:.0f})"


def _memory(measured: dict[str, Any] | None) -> str:
    return f"{round(measured['peak_mb'])} MB" if measured and measured["peak_mb"] is not None else NOTHING


def put_table(page: Path, results: list[dict[str, Any]]) -> None:
    """Put the table between its two marks in a page.

    Raises:
        ValueError: the page lacks a mark.
    """
    text = page.read_text()
    if BEGIN not in text or END not in text:
        raise ValueError(
            f"{page} needs the lines {BEGIN.strip()} and {END.strip()}: the table goes between them"
        )
    before, rest = text.split(BEGIN)
    page.write_text(f"{before}{BEGIN}\n{table(results)}{END}{rest.split(END)[1]}")
