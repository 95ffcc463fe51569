"""What a study costs before it runs: GPU-hours and disk, and what these numbers rest on; without torch.

The hours of a run are its epochs, times the hours of an epoch with ResNet-50 on one GPU, times the cost of
its backbone, times the pixels of its training images, padding included (`experiments/padding.csv`). Hours of
an epoch are what finished trainings of the study took or a rehearsal measured, or else what others published
(`experiments/planning.yaml`). Every estimate is a range.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tood.ledger.forms import Timed
from tood.ledger.rehearsal import all_rehearsed
from tood.runtime.files import read_json
from tood.runtime.text import aligned, did_you_mean
from tood.study.claims import Claim, load_claims
from tood.study.declarations import ExperimentError, Run, Table, load_runs, load_tables, select_runs
from tood.study.paths import PADDING, StudyPaths
from tood.study.plan import Plan, Training
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


class _Took(NamedTuple):
    device: str
    run: str
    hours: float  # of one device, for the epochs that the run declares


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
        `runs`, `epochs`, `by_backbone`, `gpu_hours`, `days` (both are ranges, or None) and `disk_gib`.
    """
    runs = load_runs()
    declared = load_tables(runs=runs)
    planning = load_planning(runs)
    size = load_scale(scale)
    basis = _basis(size, planning, runs, [scale], gpu)
    seeds = {run: len(own) for run, own in seeds_by_run(size, runs).items()}
    if tables is not None:
        names = runs_of(table_names(tables, declared), declared)
    else:
        names = [run.id for run in select_runs(size.runs, runs)]

    def cost(some: Sequence[str]) -> dict[str, Any]:
        chosen = [runs[name] for name in some]
        number = np.array([seeds[name] for name in some])  # [R]
        epochs = number * [run.epochs for run in chosen]  # [R]
        hours = None  # [R, 2]
        if basis:
            hours = number[:, None] * [_hours(run, size, planning, basis) for run in chosen]
        backbones = np.array([run.backbone for run in chosen])
        return {
            "runs": list(some),
            "epochs": int(epochs.sum()),
            "by_backbone": [
                {
                    "backbone": name,
                    "runs": int((backbones == name).sum()),
                    "epochs": int(epochs[backbones == name].sum()),
                    "gpu_hours": None if hours is None else _span(hours[backbones == name].sum(0)),
                }
                for name in dict.fromkeys(backbones.tolist())
            ],
            "gpu_hours": None if hours is None else _span(hours.sum(0)),
            # One training stays on one GPU, so it takes no less than the longest.
            "days": None
            if hours is None
            else _span(np.maximum(hours.sum(0) / gpus, (hours / number[:, None]).max(0)) / 24),
            "disk_gib": _disk(chosen, size, planning, gpus, number),
        }

    return {
        "scale": scale,
        "seeds": list(size.seeds),
        "gpus": gpus,
        "device": basis and basis.device,
        "measured": list(basis.measured) if basis else [],
        "basis": _statements(size, planning, basis),
        "study": cost(names),
        "claims": cost(claimed(load_claims(runs, declared), runs)),
    }


def cost_of(plan: Plan, trainings: Sequence[Training]) -> str:
    """What trainings of a study will take, in one sentence."""
    if not trainings:
        return "Nothing is to be trained."
    number, study = f"{len(trainings)} training" + "s" * (len(trainings) > 1), plan.study
    if study.iterations:
        return f"{number} to do, each stopped after {study.iterations} iterations."
    planning = load_planning(plan.all_runs)
    # Images in place of drawn ones, of another number and size
    replaced = plan.own_data and plan.scale.drawing is not None
    studies = [plan.name] if replaced else list(dict.fromkeys([plan.name, plan.scale.name]))
    basis = _basis(plan.scale, planning, plan.all_runs, studies, rehearsed=not replaced)
    if basis is None:
        return f"{number} to do; how long they take is known once one of them has finished here."
    runs = [plan.all_runs[training.run] for training in trainings]
    share = study.schedule or 1
    hours = share * np.sum([_hours(run, plan.scale, planning, basis) for run in runs], axis=0)
    disk = sum(_disk(runs, plan.scale, planning, 1, np.ones(len(runs))).values())
    unit = "hours" if basis.device.startswith("CPU") else "GPU-hours"
    return (
        f"{number} to do: {_range(_span(hours))} {unit} on {basis.device}"
        + (f", {disk:,.0f} GiB of disk with the data" if disk else "")
        + (", measured here." if basis.measured else ", assumed and not measured (`tood plan`).")
    )


def table_names(text: str, tables: Mapping[str, Table]) -> list[str]:
    """The names of tables such as "1,3,m" or "table1 table_m"."""
    names = []
    for word in text.replace(",", " ").split():
        matches = [name for name in (word, f"table{word}", f"table_{word}") if name in tables]
        if not matches:
            raise ExperimentError(
                f"--tables {word}: no such table; {did_you_mean(word, tables)}there are {', '.join(tables)}"
            )
        names += matches
    return names


def runs_of(names: Iterable[str], tables: Mapping[str, Table]) -> list[str]:
    """The runs of these tables, each once, as several rows may share one."""
    return list(dict.fromkeys(row.run for name in names for row in tables[name].rows))


def claimed(claims: Iterable[Claim], runs: Mapping[str, Run]) -> list[str]:
    """The paper's runs on which claims rest, each once."""
    return list(dict.fromkeys(run for claim in claims for run in claim.runs if runs[run].in_paper))


def _basis(
    scale: Scale,
    planning: Planning,
    runs: Mapping[str, Run],
    studies: Sequence[str],
    gpu: str | None = None,
    rehearsed: bool = True,
) -> Basis | None:
    """What finished trainings took, or what is assumed; None where nothing is known.

    Args:
        studies: names of those whose trainings count.
        rehearsed: whether what was rehearsed counts, which is for the images of the scale.
    """
    paths = [StudyPaths(name) for name in studies]
    images = scale.drawing.train_images if scale.drawing else planning.data.train_images
    trained = [took for each in paths for took in _finished(each, runs) if _is_of(took.device, gpu)]
    tried = [
        _Took(run.device, run.run, runs[run.run].epochs * images / run.images_per_second / 3600)
        for each in paths
        for run in (all_rehearsed(each) if rehearsed else ())
        if run.run in runs and run.images_per_second and _is_of(run.device, gpu)
    ]
    if took := trained or tried:
        device = statistics.mode(each.device for each in took)
        of_finished, of_rehearsed = (_means(each, device) for each in (trained, tried))
        means = of_rehearsed | of_finished  # what finished counts more
        per_epoch = [
            spent / runs[run].epochs / np.array(_time(runs[run], scale, planning))
            for run, spent in means.items()
        ]
        epoch = min(each[1] for each in per_epoch), max(each[0] for each in per_epoch)
        return Basis(device, epoch, means, _measured(device, len(of_finished), len(of_rehearsed), paths))
    known = planning.gpus.gigabytes_per_second
    device = next(
        (name for name in known if name.casefold() == (gpu or planning.gpus.assumed).casefold()), ""
    )
    if not device:
        raise ExperimentError(
            f"--gpu {gpu}: nothing was measured on it here, and no assumption is made for it; "
            f"{did_you_mean(str(gpu), known)}there are {', '.join(known)}"
        )
    return None if scale.drawing else _assumed(device, planning)


def _is_of(device: str, gpu: str | None) -> bool:
    return gpu is None or gpu.casefold() in device.casefold()


def _means(took: Iterable[_Took], device: str) -> dict[str, float]:
    """Mean hours of the runs that took them on a device."""
    hours: dict[str, list[float]] = {}
    for each in took:
        if each.device == device:
            hours.setdefault(each.run, []).append(each.hours)
    return {run: statistics.mean(spent) for run, spent in hours.items()}


def _measured(device: str, finished: int, rehearsed: int, paths: Sequence[StudyPaths]) -> str:
    """What was measured on a device, in sentences."""
    sentences = []
    if finished:
        sentences.append(
            f"Measured: trainings of {finished} runs that finished on {device}, from their provenance.json "
            f"in {', '.join(str(each.runs) for each in paths)}."
        )
    if rehearsed:
        also = "; a run that finished counts by its own time" if finished else ""
        sentences.append(
            f"Rehearsed: a few iterations of {rehearsed} runs on {device}, from "
            f"{', '.join(str(each.rehearsal) for each in paths)}{also}."
        )
    return " ".join(sentences)


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


def _finished(paths: StudyPaths, runs: Mapping[str, Run]) -> list[_Took]:
    """What trainings took that went through all of their epochs, which may be more than the run declares."""
    trainings = []
    for path in sorted(paths.runs.glob("*/*/provenance.json")):
        content = read_json(path, Timed)
        hardware = content.get("hardware")
        settings = content.get("settings") or {}
        run = runs.get(content.get("run"))
        if content.get("seconds") is None or run is None or hardware is None or settings.get("iterations"):
            continue
        gpus, names = hardware.get("gpus", 0), hardware.get("gpu_names") or [hardware.get("device")]
        device = names[0] if gpus else f"CPU ({hardware.get('cpu')})"
        share = run.epochs / (settings.get("run") or {}).get("epochs", run.epochs)
        trainings.append(_Took(device, run.id, share * content["seconds"] / 3600 * max(1, gpus)))
    return trainings


def _time(run: Run, scale: Scale, planning: Planning) -> Span:
    """Cost of an epoch relative to ResNet-50 at 800 pixels; runs of the drawn scales all count alike."""
    if scale.drawing:
        return 1.0, 1.0
    pixels = relative_pixels().get(run.id)
    if pixels is None:
        raise ExperimentError(f"{PADDING}: no row of {run.id}; `tood padding` writes it")
    low, high = planning.backbones[run.backbone].time
    return low * pixels, high * pixels


def _hours(run: Run, scale: Scale, planning: Planning, basis: Basis) -> Span:
    """Hours of one device for one seed of a run."""
    if run.id in basis.measured:
        return (basis.measured[run.id],) * 2
    return _span(run.epochs * np.array(basis.epoch) * _time(run, scale, planning))


def _span(ends: np.ndarray) -> Span:
    return float(ends[0]), float(ends[1])


def _disk(
    runs: Sequence[Run], scale: Scale, planning: Planning, gpus: int, seeds: np.ndarray
) -> dict[str, float]:
    """GiB by kind; empty where models and data are so small that it does not matter."""
    if scale.drawing:
        return {}
    parameters = np.array([planning.backbones[run.backbone].parameters_m * 1e6 for run in runs])
    largest = sorted(parameters, reverse=True)[:gpus]
    initial = {
        (run.weights, run.backbone.removesuffix("-DCN")): size
        for run, size in zip(runs, parameters, strict=True)
    }
    bytes_of = {
        "weights of trained runs": _FINAL * _WEIGHT * (parameters * seeds).sum(),
        "initial weights of backbones, at most": _WEIGHT * sum(initial.values()),
        f"checkpoints of {len(largest)} trainings at a time": 2 * _WEIGHT * _CHECKPOINTS * sum(largest),
        "detections, at most": _DETECTION * 100 * planning.data.val_images * seeds.sum(),
    }
    sizes = {kind: float(size / _GIB) for kind, size in bytes_of.items()}
    return sizes | {f"data: {name}": size for name, size in planning.data.gigabytes.items()}


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


def describe(estimated: Mapping[str, Any]) -> str:
    """The result of `estimate` for people."""
    study, claims = estimated["study"], estimated["claims"]
    unit = "hours" if estimated["device"] and estimated["device"].startswith("CPU") else "GPU-hours"
    rows = [
        (group["backbone"], group["runs"], group["epochs"], _range(group["gpu_hours"]))
        for group in study["by_backbone"]
    ]
    total = ("all", len(study["runs"]), study["epochs"], _range(study["gpu_hours"]))
    table = aligned([("backbone", "runs", "epochs", unit), *rows, total], right=(1, 2, 3))
    lines = [
        f"scale {estimated['scale']}, seeds {', '.join(map(str, estimated['seeds']))}, "
        f"{estimated['device'] or 'any device'}",
        *("", table, ""),
    ]
    if study["days"]:
        lines.append(f"{estimated['gpus']} at a time, one run on each: {_range(study['days'], 1)} days")
    lines += [f"disk, {kind}: {size:,.1f} GiB" for kind, size in study["disk_gib"].items()]
    if study["disk_gib"]:
        lines.append(f"disk in all: {sum(study['disk_gib'].values()):,.1f} GiB")
    lines += [
        "",
        f"The runs on which the paper's own claims rest: {len(claims['runs'])} runs, "
        f"{claims['epochs']:,} epochs, {_range(claims['gpu_hours'])} {unit}:",
        f"  runs={','.join(claims['runs'])}",
        "",
        *estimated["basis"],
    ]
    return "\n".join(lines)


def _range(span: Span | None, digits: int = 0) -> str:
    """A range such as 1,460–1,690; one number where its ends are the same."""
    if span is None:
        return "unknown"
    low, high = (f"{side:,.{digits}f}" if side >= 10 or digits else f"{side:.2g}" for side in span)
    return low if low == high else f"{low}–{high}"
