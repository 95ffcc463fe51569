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
from tood.study.planning import Span, load_planning, relative_pixels
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
    size = load_scale(scale)
    costs = _Costs(size, runs, [scale], gpu)
    seeds = {run: len(own) for run, own in seeds_by_run(size, runs).items()}
    names = size.runs if tables is None else table_names(tables, declared)
    chosen = [run.id for run in select_runs(names, runs, declared)]
    return {
        "scale": scale,
        "seeds": list(size.seeds),
        "gpus": gpus,
        "device": costs.basis and costs.basis.device,
        "measured": list(costs.basis.measured) if costs.basis else [],
        "basis": costs.statements(),
        "study": costs.of(chosen, seeds, gpus),
        "claims": costs.of(claimed(load_claims(runs, declared), runs), seeds, gpus),
    }


def cost_of(plan: Plan, trainings: Sequence[Training]) -> str:
    """What trainings of a study will take, in one sentence."""
    if not trainings:
        return "Nothing is to be trained."
    number, study = f"{len(trainings)} training" + "s" * (len(trainings) > 1), plan.study
    if study.iterations:
        return f"{number} to do, each stopped after {study.iterations} iterations."
    # Images in place of drawn ones, of another number and size
    replaced = plan.own_data and plan.scale.drawing is not None
    studies = [plan.name] if replaced else list(dict.fromkeys([plan.name, plan.scale.name]))
    costs = _Costs(plan.scale, plan.all_runs, studies, rehearsed=not replaced)
    if costs.basis is None:
        return f"{number} to do; how long they take is known once one of them has finished here."
    runs = [plan.all_runs[training.run] for training in trainings]
    hours = (study.schedule or 1) * np.sum([costs.hours(run) for run in runs], axis=0)
    disk = sum(costs.disk(runs, np.ones(len(runs)), 1).values())
    device = costs.basis.device
    return (
        f"{number} to do: {_range(_span(hours))} {_unit(device)} on {device}"
        + (f", {disk:,.0f} GiB of disk with the data" if disk else "")
        + (", measured here." if costs.basis.measured else ", assumed and not measured (`tood plan`).")
    )


def table_names(text: str, tables: Mapping[str, Table]) -> list[str]:
    """The names of tables such as "1,3,m" or "table1 table_m"."""
    names = []
    for word in text.replace(",", " ").split() or [""]:
        matches = [name for name in (word, f"table{word}", f"table_{word}") if name in tables]
        if not matches:
            raise ExperimentError(
                f"--tables {word}: no such table; {did_you_mean(word, tables)}there are {', '.join(tables)}"
            )
        names += matches
    return names


def claimed(claims: Iterable[Claim], runs: Mapping[str, Run]) -> list[str]:
    """The paper's runs on which claims rest, each once."""
    return list(dict.fromkeys(run for claim in claims for run in claim.runs if runs[run].in_paper))


class _Costs:
    """What runs of a scale cost.

    Args:
        scale: of the runs.
        runs: all that are declared, by id.
        studies: names of those whose trainings count.
        gpu: model; None takes that of these trainings, or else the assumed one.
        rehearsed: whether what was rehearsed counts, which is for the images of the scale.
    """

    def __init__(
        self,
        scale: Scale,
        runs: Mapping[str, Run],
        studies: Iterable[str],
        gpu: str | None = None,
        rehearsed: bool = True,
    ) -> None:
        self._scale, self._runs, self._planning = scale, runs, load_planning(runs)
        paths = [StudyPaths(name) for name in studies]
        self.basis = self._measured(paths, gpu, rehearsed) or self._assumed(gpu)

    def of(self, names: Sequence[str], seeds: Mapping[str, int], gpus: int) -> dict[str, Any]:
        """The cost of runs, each with its number of seeds, on GPUs that train at the same time."""
        runs = [self._runs[name] for name in names]
        number = np.array([seeds[name] for name in names])  # [R]
        epochs = number * [run.epochs for run in runs]  # [R]
        hours = number[:, None] * [self.hours(run) for run in runs]  # [R, 2]
        backbones = np.array([run.backbone for run in runs])
        return {
            "runs": list(names),
            "epochs": int(epochs.sum()),
            "by_backbone": [
                {
                    "backbone": name,
                    "runs": int((backbones == name).sum()),
                    "epochs": int(epochs[backbones == name].sum()),
                    "gpu_hours": _span(hours[backbones == name].sum(0)),
                }
                for name in dict.fromkeys(backbones.tolist())
            ],
            "gpu_hours": _span(hours.sum(0)),
            # One training stays on one GPU, so it takes no less than the longest.
            "days": _span(np.maximum(hours.sum(0) / gpus, (hours / number[:, None]).max(0)) / 24),
            "disk_gib": self.disk(runs, number, gpus),
        }

    def hours(self, run: Run) -> np.ndarray:
        """Hours of one device for one seed of a run, from and to; nan where nothing is known."""
        if self.basis is None:
            return np.full(2, np.nan)
        if run.id in self.basis.measured:
            return np.full(2, self.basis.measured[run.id])
        return run.epochs * np.array(self.basis.epoch) * self._time(run)

    def _time(self, run: Run) -> Span:
        """Cost of an epoch relative to ResNet-50 at 800 pixels; runs of the drawn scales all count alike."""
        if self._scale.drawing:
            return 1.0, 1.0
        pixels = relative_pixels().get(run.id)
        if pixels is None:
            raise ExperimentError(f"{PADDING}: no row of {run.id}; `tood padding` writes it")
        low, high = self._planning.backbones[run.backbone].time
        return low * pixels, high * pixels

    def disk(self, runs: Sequence[Run], seeds: np.ndarray, gpus: int) -> dict[str, float]:
        """GiB by kind; empty where models and data are so small that it does not matter."""
        if self._scale.drawing:
            return {}
        backbones, data = self._planning.backbones, self._planning.data
        parameters = np.array([backbones[run.backbone].parameters_m * 1e6 for run in runs])
        largest = sorted(parameters, reverse=True)[:gpus]
        initial = {
            (run.weights, run.backbone.removesuffix("-DCN")): size
            for run, size in zip(runs, parameters, strict=True)
        }
        bytes_of = {
            "weights of trained runs": _FINAL * _WEIGHT * (parameters * seeds).sum(),
            "initial weights of backbones, at most": _WEIGHT * sum(initial.values()),
            f"checkpoints of {len(largest)} trainings at a time": 2 * _WEIGHT * _CHECKPOINTS * sum(largest),
            "detections, at most": _DETECTION * 100 * data.val_images * seeds.sum(),
        }
        sizes = {kind: float(size / _GIB) for kind, size in bytes_of.items()}
        return sizes | {f"data: {name}": size for name, size in data.gigabytes.items()}

    def statements(self) -> list[str]:
        """What the numbers rest on, one sentence or two each."""
        if self.basis is None:
            return [
                f"Nothing is known of the time: no training of {self._scale.name} has finished here, and "
                "published throughput is of the paper's models. Train one run, then ask again."
            ]
        if self._scale.drawing:
            return [
                self.basis.statement,
                "Other runs: by their epochs, as if every model took the same time.",
            ]
        return [
            self.basis.statement,
            f"Other backbones relative to ResNet-50: {self._planning.time_source}.",
            "Time is taken to grow with the pixels of training images, with padding: "
            "experiments/padding.csv.",
            "Not in the numbers: the second forward pass of some heads where micro_batch is smaller than a "
            "process's share of the batch; differences between heads; slow loading of images; evaluation.",
        ]

    def _measured(self, studies: Sequence[StudyPaths], gpu: str | None, rehearsed: bool) -> Basis | None:
        """What finished trainings took, or rehearsals measured; None where nothing was on this GPU."""
        drawing, runs = self._scale.drawing, self._runs
        images = drawing.train_images if drawing else self._planning.data.train_images
        finished = [took for paths in studies for took in _finished(paths, runs) if _is_of(took.device, gpu)]
        tried = [
            _Took(row.device, row.run, runs[row.run].epochs * images / row.images_per_second / 3600)
            for paths in studies
            for row in (all_rehearsed(paths) if rehearsed else ())
            if row.run in runs and row.images_per_second and _is_of(row.device, gpu)
        ]
        if not (finished or tried):
            return None
        device = statistics.mode(each.device for each in finished or tried)
        of_finished, of_rehearsed = (_means(each, device) for each in (finished, tried))
        means = of_rehearsed | of_finished  # what finished counts more
        per_epoch = [
            spent / runs[run].epochs / np.array(self._time(runs[run])) for run, spent in means.items()
        ]
        epoch = min(each[1] for each in per_epoch), max(each[0] for each in per_epoch)
        sentences = []
        if of_finished:
            sentences.append(
                f"Measured: trainings of {len(of_finished)} runs that finished on {device}, from their "
                f"provenance.json in {', '.join(str(paths.runs) for paths in studies)}."
            )
        if of_rehearsed:
            also = "; a run that finished counts by its own time" if of_finished else ""
            sentences.append(
                f"Rehearsed: a few iterations of {len(of_rehearsed)} runs on {device}, from "
                f"{', '.join(str(paths.rehearsal) for paths in studies)}{also}."
            )
        return Basis(device, epoch, means, " ".join(sentences))

    def _assumed(self, gpu: str | None) -> Basis | None:
        """Hours by the published throughput of one GPU and another's ratio to it; None for drawn images."""
        base, gpus = self._planning.throughput, self._planning.gpus
        bandwidth = gpus.gigabytes_per_second
        wanted = (gpu or gpus.assumed).casefold()
        device = next((name for name in bandwidth if name.casefold() == wanted), None)
        if device is None:
            raise ExperimentError(
                f"--gpu {gpu}: nothing was measured on it here, and no assumption is made for it; "
                f"{did_you_mean(str(gpu), bandwidth)}there are {', '.join(bandwidth)}"
            )
        if self._scale.drawing:
            return None
        faster = bandwidth[device] / bandwidth[base.gpu]
        same = device == base.gpu
        first, last = base.images_per_second
        slowest, fastest = first * (1 if same else faster * gpus.least_share), last * faster
        images = self._planning.data.train_images
        statement = (
            f"Assumed, not measured here: {slowest:.1f} to {fastest:.1f} images per second on one {device} "
            "with ResNet-50."
        )
        if not same:
            statement += f" {device}: {gpus.source}. {base.gpu}: {first} to {last} images per second."
        statement += f" Sources: {base.source}."
        return Basis(device, (images / fastest / 3600, images / slowest / 3600), {}, statement)


def _is_of(device: str, gpu: str | None) -> bool:
    return gpu is None or gpu.casefold() in device.casefold()


def _means(took: Iterable[_Took], device: str) -> dict[str, float]:
    """Mean hours of the runs that took them on a device."""
    hours: dict[str, list[float]] = {}
    for each in took:
        if each.device == device:
            hours.setdefault(each.run, []).append(each.hours)
    return {run: statistics.mean(spent) for run, spent in hours.items()}


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


def _span(ends: np.ndarray) -> Span | None:
    return None if np.isnan(ends).any() else (float(ends[0]), float(ends[1]))


def _unit(device: str | None) -> str:
    return "hours" if device and device.startswith("CPU") else "GPU-hours"


def describe(estimated: Mapping[str, Any]) -> str:
    """The result of `estimate` for people."""
    study, claims = estimated["study"], estimated["claims"]
    unit = _unit(estimated["device"])
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
