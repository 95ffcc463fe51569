"""What a study costs before it runs: GPU-hours and disk, and what these numbers rest on; without torch.

The hours of a run are its epochs, times the hours of an epoch with ResNet-50 on one GPU, times the cost of
its backbone, times the pixels of its training images, padding included (`experiments/padding.csv`). Hours of
an epoch are what finished trainings of the study took or a rehearsal measured, or else what others published
(`experiments/planning.yaml`). Every estimate is a range.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from tood.ledger.forms import Timed
from tood.ledger.rehearsal import all_rehearsed
from tood.runtime.files import read_json
from tood.runtime.text import aligned, did_you_mean
from tood.study.claims import Claim, load_claims
from tood.study.declarations import (
    ExperimentError,
    Run,
    Table,
    load_runs,
    load_tables,
    select_runs,
)
from tood.study.paths import PADDING, StudyPaths
from tood.study.planning import Planning, Span, load_planning, relative_pixels
from tood.study.scales import Scale, load_scale, seeds_by_run

_WEIGHT = 4  # bytes of a parameter
_CHECKPOINTS = 3  # at the same time while the newest is written; each holds weights and momentum
_FINAL = 2  # files of weights that a finished training leaves
_DETECTION = 200  # bytes of one of at most 100 on an image
_GIB = 2**30


class Basis(NamedTuple):
    """What hours rest on."""

    device: str
    epoch: Span  # hours of one epoch with ResNet-50 on one device
    measured: dict[str, float]  # hours of the runs that were trained on it, the mean of their seeds
    statement: str


def estimate(scale: str, tables: str | None = None, gpu: str | None = None, gpus: int = 1) -> dict[str, Any]:
    """The cost of runs at a scale, with all of its seeds; JSON-ready.

    Args:
        scale: name.
        tables: such as "1,3,6" or "table_m"; None takes the runs of the scale.
        gpu: model; None takes that of the finished trainings, or else the assumed one.
        gpus: number of GPUs that train at the same time, each another run.

    Returns:
        `scale`, `seeds`, `gpus`, `device`, `measured` (run ids whose own time is known), `basis` (sentences).
        Under `study`, the chosen runs, and under `claims`, those on which the paper's claims rest:
        `runs`, `not_yet` (those of them that cannot be trained yet), `epochs`, `by_backbone`, `gpu_hours`,
        `days` (both are ranges, or None) and `disk_gib`.

    Raises:
        ExperimentError: an unknown scale, table or GPU.
    """
    runs = load_runs()
    declared = load_tables(runs=runs)
    planning = load_planning(runs)
    size = load_scale(scale)
    basis = _basis(size, planning, runs, gpu)
    seeds = {run: len(own) for run, own in seeds_by_run(size, runs).items()}
    if tables is not None:
        names = runs_of(table_names(tables, declared), declared)
    else:
        names = [run.id for run in select_runs(size.runs, runs)]

    def cost(some: Iterable[str]) -> dict[str, Any]:
        chosen = [runs[name] for name in some]
        hours = [
            None if basis is None else _hours(run, size, planning, basis, seeds[run.id]) for run in chosen
        ]
        total, groups = _sum(hours), []
        for backbone in dict.fromkeys(run.backbone for run in chosen):
            of_it = [index for index, run in enumerate(chosen) if run.backbone == backbone]
            groups.append(
                {
                    "backbone": backbone,
                    "runs": len(of_it),
                    "epochs": sum(chosen[i].epochs * seeds[chosen[i].id] for i in of_it),
                    "gpu_hours": _sum([hours[index] for index in of_it]),
                }
            )
        return {
            "runs": [run.id for run in chosen],
            "epochs": sum(run.epochs * seeds[run.id] for run in chosen),
            "by_backbone": groups,
            "gpu_hours": total,
            "days": _days(total, hours, gpus, [seeds[run.id] for run in chosen]),
            "disk_gib": _disk(chosen, size, planning, gpus, seeds),
        }

    return {
        "scale": scale,
        "seeds": list(size.seeds),
        "gpus": gpus,
        "device": None if basis is None else basis.device,
        "measured": [] if basis is None else list(basis.measured),
        "basis": _statements(size, planning, basis),
        "study": cost(names),
        "claims": cost(claimed(load_claims(runs, declared))),
    }


def table_names(text: str, tables: Mapping[str, Table]) -> list[str]:
    """The names of tables such as "1,3,m" or "table1 table_m".

    Raises:
        ExperimentError: there is no such table.
    """
    names = []
    for word in text.replace(",", " ").split():
        found = [name for name in (word, f"table{word}", f"table_{word}") if name in tables]
        if not found:
            raise ExperimentError(
                f"--tables {word}: no such table; {did_you_mean(word, tables)}there are {', '.join(tables)}"
            )
        names += found
    return names


def runs_of(names: Iterable[str], tables: Mapping[str, Table]) -> list[str]:
    """The runs of these tables, each once, as several rows may share one."""
    return list(dict.fromkeys(row.run for name in names for row in tables[name].rows))


def claimed(claims: Iterable[Claim]) -> list[str]:
    """The runs on which claims rest, each once."""
    return list(dict.fromkeys(run for claim in claims for run in claim.runs))


def _basis(scale: Scale, planning: Planning, runs: Mapping[str, Run], gpu: str | None) -> Basis | None:
    """What finished trainings took, or what is assumed; None where nothing is known."""
    paths = StudyPaths(scale.name)
    sources = {"finished": _finished(paths), "rehearsed": _rehearsed(paths, scale, planning, runs)}
    devices = [device for took in sources.values() for device, _, _ in took]
    if gpu is not None:
        devices = [device for device in devices if gpu.casefold() in device.casefold()]
    if devices:
        finished = [device for device, _, _ in sources["finished"] if device in devices]
        device = statistics.mode(finished or devices)
        means: dict[str, float] = {}
        for took in reversed(sources.values()):  # what finished counts more
            means |= _means(took, device, runs)
        costs = {run: _time(runs[run], scale, planning) for run in means}
        epoch = (
            min(spent / runs[run].epochs / costs[run][1] for run, spent in means.items()),
            max(spent / runs[run].epochs / costs[run][0] for run, spent in means.items()),
        )
        numbers = {source: len(_means(took, device, runs)) for source, took in sources.items()}
        return Basis(device, epoch, means, _measured(device, numbers, paths))
    known = planning.gpus.gigabytes_per_second
    if gpu is not None and (matching := [name for name in known if name.casefold() == gpu.casefold()]):
        device = matching[0]
    elif gpu is None:
        device = planning.gpus.assumed
    else:
        raise ExperimentError(
            f"--gpu {gpu}: nothing was measured on it here, and no assumption is made for it; "
            f"{did_you_mean(gpu, known)}there are {', '.join(known)}"
        )
    return None if scale.drawing else _assumed(device, planning)


def _means(took: Iterable[tuple[str, str, float]], device: str, runs: Mapping[str, Run]) -> dict[str, float]:
    """Mean hours of the runs that took them on a device."""
    hours: dict[str, list[float]] = {}
    for where, run, spent in took:
        if where == device and run in runs:
            hours.setdefault(run, []).append(spent)
    return {run: statistics.mean(spent) for run, spent in hours.items()}


def _measured(device: str, numbers: Mapping[str, int], paths: StudyPaths) -> str:
    """What was measured on a device, in sentences."""
    said = []
    if number := numbers["finished"]:
        said.append(
            f"Measured: trainings of {number} runs that finished on {device}, from their provenance.json "
            f"in {paths.runs}."
        )
    if number := numbers["rehearsed"]:
        said.append(
            f"Rehearsed: a few iterations of {number} runs on {device}, from {paths.rehearsal}"
            + ("; a run that finished counts by its own time." if said else ".")
        )
    return " ".join(said)


def _assumed(device: str, planning: Planning) -> Basis:
    """Hours by the published throughput of one GPU and the ratio of another to it."""
    base = planning.throughput
    bandwidth = planning.gpus.gigabytes_per_second
    faster = bandwidth[device] / bandwidth[base.gpu]
    same = device == base.gpu
    slowest = base.images_per_second[0] * (1 if same else faster * planning.gpus.least_share)
    fastest = base.images_per_second[1] * faster
    images = planning.data.train_images
    statement = (
        f"Assumed, not measured here: {slowest:.1f} to {fastest:.1f} images per second on one {device} with "
        "ResNet-50."
    )
    if not same:
        first, last = base.images_per_second
        statement += f" {device}: {planning.gpus.source}. {base.gpu}: {first} to {last} images per second."
    statement += f" Sources: {base.source}."
    return Basis(device, (images / fastest / 3600, images / slowest / 3600), {}, statement)


def _finished(paths: StudyPaths) -> list[tuple[str, str, float]]:
    """Device, run and hours of one device, of each training that went through all of its epochs."""
    found = []
    for path in sorted(paths.runs.glob("*/*/provenance.json")):
        content = read_json(path, Timed)
        hardware = content.get("hardware")
        cut = (content.get("settings") or {}).get("iterations")
        if content.get("seconds") is None or content.get("run") is None or hardware is None or cut:
            continue
        gpus, names = hardware.get("gpus", 0), hardware.get("gpu_names") or [hardware.get("device")]
        device = names[0] if gpus else f"CPU ({hardware.get('cpu')})"
        found.append((device, content["run"], content["seconds"] / 3600 * max(1, gpus)))
    return found


def _rehearsed(
    paths: StudyPaths, scale: Scale, planning: Planning, runs: Mapping[str, Run]
) -> list[tuple[str, str, float]]:
    """Device, run and hours of each training at the rate of its rehearsal, on all images of the scale."""
    images = scale.drawing.train_images if scale.drawing else planning.data.train_images
    return [
        (one.device, one.run, runs[one.run].epochs * images / one.images_per_second / 3600)
        for one in all_rehearsed(paths)
        if one.run in runs and one.images_per_second
    ]


def _time(run: Run, scale: Scale, planning: Planning) -> Span:
    """Cost of an epoch relative to ResNet-50 at 800 pixels; runs of the drawn scales all count alike."""
    if scale.drawing:
        return 1.0, 1.0
    pixels = relative_pixels().get(run.id)
    if pixels is None:
        raise ExperimentError(f"{PADDING}: no row of {run.id}; `tood padding` writes it")
    low, high = planning.backbones[run.backbone].time
    return low * pixels, high * pixels


def _hours(run: Run, scale: Scale, planning: Planning, basis: Basis, seeds: int) -> Span:
    """Hours of one device for all seeds of a run."""
    if run.id in basis.measured:
        return (basis.measured[run.id] * seeds,) * 2
    cost = _time(run, scale, planning)
    return tuple(run.epochs * seeds * side * part for side, part in zip(basis.epoch, cost, strict=True))  # type: ignore[return-value]


def _sum(hours: Sequence[Span | None]) -> Span | None:
    known = [span for span in hours if span is not None]
    if not known or len(known) < len(hours):
        return None
    return sum(span[0] for span in known), sum(span[1] for span in known)


def _days(total: Span | None, hours: Sequence[Span | None], gpus: int, seeds: Sequence[int]) -> Span | None:
    """Days on this many GPUs; one training stays on one GPU, so it takes no less than the longest."""
    if total is None:
        return None
    longest = [
        max(span[side] / number for span, number in zip(hours, seeds, strict=True) if span) for side in (0, 1)
    ]
    return max(total[0] / gpus, longest[0]) / 24, max(total[1] / gpus, longest[1]) / 24


def _disk(
    runs: Sequence[Run], scale: Scale, planning: Planning, gpus: int, seeds: Mapping[str, int]
) -> dict[str, float]:
    """GiB by kind; empty where models and data are so small that it does not matter."""
    if scale.drawing:
        return {}
    parameters = [planning.backbones[run.backbone].parameters_m * 1e6 for run in runs]
    largest = sorted(parameters, reverse=True)[:gpus]
    trainings = [size for run, size in zip(runs, parameters, strict=True) for _ in range(seeds[run.id])]
    initial = {
        (run.weights, run.backbone.removesuffix("-DCN")): planning.backbones[run.backbone].parameters_m * 1e6
        for run in runs
    }
    bytes_of = {
        "weights of trained runs": _FINAL * _WEIGHT * sum(trainings),
        "initial weights of backbones, at most": _WEIGHT * sum(initial.values()),
        f"checkpoints of {len(largest)} trainings at a time": 2 * _WEIGHT * _CHECKPOINTS * sum(largest),
        "detections, at most": _DETECTION * 100 * planning.data.val_images * len(trainings),
    }
    found = {kind: size / _GIB for kind, size in bytes_of.items()}
    return {**found, **{f"data: {name}": size for name, size in planning.data.gigabytes.items()}}


def _statements(scale: Scale, planning: Planning, basis: Basis | None) -> list[str]:
    """What the numbers rest on, one sentence or two each."""
    if basis is None:
        return [
            f"Nothing is known of the time: no training of {scale.name} has finished here, and published "
            "throughput is of the paper's models. Train one run, then ask again."
        ]
    if scale.drawing:
        return [basis.statement, "Other runs: by their epochs, as if every model took the same time."]
    return [
        basis.statement,
        f"Other backbones relative to ResNet-50: {planning.time_source}.",
        "Time is taken to grow with the pixels of training images, with padding: experiments/padding.csv.",
        "Not in the numbers: the second forward pass of some heads where micro_batch is smaller than a "
        "process's share of the batch; differences between heads; slow loading of images; evaluation.",
    ]


def describe(found: Mapping[str, Any]) -> str:
    """The result of `estimate` for people."""
    study, claims = found["study"], found["claims"]
    unit = "hours" if found["device"] and found["device"].startswith("CPU") else "GPU-hours"
    rows = [
        (group["backbone"], group["runs"], group["epochs"], _span(group["gpu_hours"]))
        for group in study["by_backbone"]
    ]
    total = ("all", len(study["runs"]), study["epochs"], _span(study["gpu_hours"]))
    table = aligned([("backbone", "runs", "epochs", unit), *rows, total], right=(1, 2, 3))
    lines = [
        f"scale {found['scale']}, seeds {', '.join(map(str, found['seeds']))}, "
        f"{found['device'] or 'any device'}"
    ]
    lines += ["", table, ""]
    if study["days"]:
        lines.append(f"{found['gpus']} at a time, one run on each: {_span(study['days'], 1)} days")
    lines += [f"disk, {kind}: {_gib(size)}" for kind, size in study["disk_gib"].items()]
    if study["disk_gib"]:
        lines.append(f"disk in all: {_gib(sum(study['disk_gib'].values()))}")
    lines += [
        "",
        f"The runs on which the paper's own claims rest: {len(claims['runs'])} runs, "
        f"{claims['epochs']:,} epochs, {_span(claims['gpu_hours'])} {unit}:",
        f"  runs={','.join(claims['runs'])}",
        "",
        *found["basis"],
    ]
    return "\n".join(lines)


def _span(span: Span | None, digits: int = 0) -> str:
    """A range such as 1,460–1,690; one number where its ends are the same."""
    if span is None:
        return "unknown"
    low, high = (f"{side:,.{digits}f}" if side >= 10 or digits else f"{side:.2g}" for side in span)
    return low if low == high else f"{low}–{high}"


def _gib(size: float) -> str:
    return f"{size:,.1f} GiB"
