"""Building, training and evaluating a run, on a drawn dataset and on a made one of odd images."""

import json
import math
import multiprocessing
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.manifests import write_manifest
from helpers.runs import one_of_each_head
from mmengine.config import Config
from mmengine.optim import ConstantLR, LinearLR, MultiStepLR
from mmengine.runner import set_random_seed
from PIL import Image
from torch import nn

from tood.data.loading import SeededDataset, batches_from, build_dataset
from tood.data.synthetic import CLASSES, DrawingSpec, generate
from tood.engine import trainer as loop
from tood.engine.checkpoint import Checkpoints
from tood.engine.config import build_model, resolve
from tood.engine.loss_watch import LossWatch
from tood.engine.optimizer import build_optimizer
from tood.engine.reports import Reports
from tood.engine.schedule import learning_rate
from tood.engine.trainer import train
from tood.engine.weights import load_model, weights_of
from tood.evaluation.detection import AP_NAMES, coco_ap, dense_predictions, detect
from tood.evaluation.trained_run import load_trained
from tood.models.common.dense_level import DenseLevel
from tood.models.common.layers import ModulatedDeformConv2d
from tood.models.common.preprocessor import Collated
from tood.runtime.failures import Diverged, Interrupted
from tood.study.declarations import EXPERIMENTS
from tood.study.jobs import Computing, Execution, MeasuringJob
from tood.study.plan import Plan

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
CPU = torch.device("cpu")
TRAIN, VAL = Plan({}).scale.train, Plan({}).scale.val
RUNS = [run.id for run in Plan({}).runs]
DRAWN = [{"id": number, "name": name} for number, name in enumerate(CLASSES, 1)]
# Neither in the order of their ids nor without gaps.
ODD = [{"id": 7, "name": "truck"}, {"id": 2, "name": "bird"}, {"id": 90, "name": "cat"}]
# Image id: (width, height), boxes as (category id, x, y, w, h, iscrowd)
ODD_IMAGES = {
    31: ((96, 64), [(2, 10, 8, 40, 30, 0), (90, 50, 20, 44, 40, 0)]),
    12: ((48, 80), [(7, 4, 30, 36, 44, 0)]),
    5: ((64, 64), []),
    8: ((90, 61), [(90, 3, 5, 33, 50, 0), (7, 40, 10, 30, 30, 0), (2, 60, 30, 20, 30, 1)]),
    44: ((60, 70), [(2, 20, 11, 38, 52, 0)]),
    45: ((52, 75), [(7, 0, 0, 52, 75, 0)]),
    60: ((100, 50), [(90, 33, 7, 41, 36, 0)]),
    70: ((50, 90), [(2, 11, 40, 33, 21, 0)]),
}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def write_coco(path: Path, images: dict, categories: list[dict]) -> Path:
    """An annotation file of images as in `ODD_IMAGES`."""
    boxes = [(image, *box) for image, (_, listed) in images.items() for box in listed]
    content = {
        "images": [
            {"id": image, "file_name": f"{image}.png", "width": width, "height": height}
            for image, ((width, height), _) in images.items()
        ],
        "annotations": [
            {"id": number, "image_id": image, "category_id": category, "iscrowd": crowd}
            | {"bbox": [x, y, w, h], "area": w * h}
            for number, (image, category, x, y, w, h, crowd) in enumerate(boxes, 1)
        ],
        "categories": categories,
    }
    path.write_text(json.dumps(content))
    return path


@pytest.fixture(scope="module")
def odd(tmp_path_factory) -> Path:
    return write_images(tmp_path_factory.mktemp("odd"), ODD_IMAGES)


def write_images(root: Path, images: dict) -> Path:
    (root / "annotations").mkdir()
    write_coco(root / VAL.annotations, images, ODD)
    (root / VAL.images).mkdir()
    generator = np.random.default_rng(0)
    for image, ((width, height), _) in images.items():
        pixels = generator.integers(0, 255, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / VAL.images / f"{image}.png")
    return root


def odd_dataset(root: Path, flip: float | None, size=(96, 96)):
    return build_dataset(root, *VAL, [category["name"] for category in ODD], size, flip)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data") / "drawn"
    generate(root, DrawingSpec(seed=0, train_images=40, val_images=6, image_size=(64, 64)))
    return root


@pytest.fixture(scope="module")
def training_images(drawn):
    return build_dataset(drawn, *TRAIN, CLASSES, (64, 64), 0.5)


# Learning rate


def rates_of_mmengine(number, base, per_epoch, milestones, kind, warmup, factor) -> list[float]:
    """What mmengine's schedulers, stepped as its Runner does, set before each iteration."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=base)
    if kind == "linear":
        rising = LinearLR(optimizer, start_factor=factor, by_epoch=False, begin=0, end=warmup)
    else:
        rising = ConstantLR(optimizer, factor=factor, by_epoch=False, begin=0, end=warmup)
    steps = MultiStepLR(optimizer, milestones=milestones, gamma=0.1, by_epoch=True)
    rates = []
    for iteration in range(number):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        rising.step()
        if (iteration + 1) % per_epoch == 0:
            steps.step()
    return rates


@pytest.mark.parametrize("kind", ["linear", "constant"])
@pytest.mark.parametrize(
    ("base", "per_epoch", "milestones", "warmup", "factor"),
    [
        (0.01, 200, [8, 11], 500, 0.001),
        (0.01, 7, [8, 11], 500, 0.001),  # both drops within the warm-up
        (0.04, 20, [8, 11], 50, 0.001),
        (0.08, 13, [12, 16], 100, 0.1),
        (0.5, 3, [2], 2, 0.25),
    ],
)
def test_learning_rate_is_that_of_mmengine(base, per_epoch, milestones, kind, warmup, factor):
    number = per_epoch * (milestones[-1] + 1)
    expected = rates_of_mmengine(number, base, per_epoch, milestones, kind, warmup, factor)
    found = [
        learning_rate(
            iteration,
            base=base,
            iterations_per_epoch=per_epoch,
            milestones=milestones,
            warmup_iterations=warmup,
            warmup_factor=factor,
            warmup=kind,
        )
        for iteration in range(number)
    ]
    assert found == pytest.approx(expected, rel=1e-9)
    assert found[0] == pytest.approx(base * factor)


@pytest.mark.parametrize("kind", ["linear", "constant"])
@pytest.mark.parametrize("warmup", [0, 1])
def test_no_warmup(warmup, kind):
    for iteration, expected in [(0, 0.3), (3, 0.3), (4, 0.03), (8, 0.003)]:
        assert learning_rate(
            iteration,
            base=0.3,
            iterations_per_epoch=4,
            milestones=[1, 2],
            warmup_iterations=warmup,
            warmup_factor=0.001,
            warmup=kind,
        ) == pytest.approx(expected)


def test_unknown_warmup():
    with pytest.raises(ValueError, match=r"train\.warmup is 'slow'; it must be 'linear' or 'constant'"):
        learning_rate(
            9,
            base=0.3,
            iterations_per_epoch=4,
            milestones=[1],
            warmup_iterations=2,
            warmup_factor=0.1,
            warmup="slow",
        )


# Data


def drawings(training_images, order, seed=3, epoch=1) -> dict:
    """Pixels and flip of the samples, drawn in that order."""
    dataset = SeededDataset(training_images, seed)
    samples = {index: dataset[epoch, index] for index in order}
    return {
        index: (sample["inputs"].numpy().tobytes(), sample["data_samples"].flip)
        for index, sample in samples.items()
    }


def test_augmentation_depends_on_seed_epoch_and_image_alone(training_images):
    order = range(len(training_images))
    expected = drawings(training_images, order)
    random.seed(99)
    np.random.seed(99)  # noqa: NPY002 - what the transforms draw from
    assert drawings(training_images, reversed(order)) == expected
    assert drawings(training_images, [5, 5, 0]) == {index: expected[index] for index in (5, 0)}
    for other in ({"epoch": 2}, {"seed": 4}):
        assert drawings(training_images, order, **other) != expected
    flips = [flip for _, flip in expected.values()]
    assert 0.2 < np.mean(flips) < 0.8


def batches_of(dataset, *, batch_size=4, replica=2, seed=0, epoch=0, workers=0, skip=0):
    """Of one epoch."""
    per_epoch = math.ceil(len(dataset) / batch_size)
    first = epoch * per_epoch + skip
    found = list(batches_from(first, dataset, batch_size, replica, seed, epoch + 1, workers))
    assert [of for of, _ in found] == [epoch] * (per_epoch - skip)
    batches = [batch for _, batch in found]
    assert all(batch.number == len(batch.replicas) and batch.counts for batch in batches)
    return batches


def replicas_of(batches) -> list[Collated]:
    return [replica for batch in batches for replica in batch.replicas]


def content(batches) -> list:
    return [
        (meta["img_id"], meta["flip"], pixels[:, :height, :width].numpy().tobytes())
        for replica in replicas_of(batches)
        for pixels, meta, (height, width) in zip(replica.images, replica.metas, replica.sizes, strict=True)
    ]


def orders(batches) -> list[list[int]]:
    """Images by replica."""
    return [[meta["img_id"] for meta in replica.metas] for replica in replicas_of(batches)]


def test_batches_are_the_same_with_and_without_workers(training_images):
    alone = batches_of(training_images, batch_size=8, workers=0)
    assert content(batches_of(training_images, batch_size=8, workers=2)) == content(alone)


def test_order_depends_on_seed_and_epoch(training_images):
    first = orders(batches_of(training_images, seed=1, epoch=2))
    torch.manual_seed(99)
    assert orders(batches_of(training_images, seed=1, epoch=2)) == first
    assert orders(batches_of(training_images, seed=2, epoch=2)) != first
    assert orders(batches_of(training_images, seed=1, epoch=3)) != first
    assert orders(batches_of(training_images, seed=3, epoch=0)) != first
    assert orders(batches_of(training_images, seed=2, epoch=1)) != first


def assert_an_epoch(dataset, batch_size, replica, epoch):
    """Each image once; a replica's are alike in orientation but for what is left over at the end."""
    batches = batches_of(dataset, batch_size=batch_size, replica=replica, epoch=epoch)
    ids = sorted(image for images in orders(batches) for image in images)
    assert ids == sorted(dataset.get_data_info(index)["img_id"] for index in range(len(dataset)))
    assert len(batches) == math.ceil(len(dataset) / batch_size)
    shapes = [[meta["ori_shape"] for meta in each.metas] for each in replicas_of(batches)]
    mixed = [len({width < height for height, width in images}) == 2 for images in shapes]
    assert sum(mixed) <= 1
    assert not any(mixed[:-2])
    assert all(len(images) == replica for images in shapes[:-1])
    assert all(len(batch.replicas) == batch_size // replica for batch in batches[:-1])


@pytest.mark.parametrize(("batch_size", "replica"), [(1, 1), (2, 2), (3, 1), (4, 2), (100, 100), (100, 2)])
@pytest.mark.parametrize("epoch", [0, 1])
def test_an_epoch_of_odd_images(odd, batch_size, replica, epoch):
    assert_an_epoch(odd_dataset(odd, 0.5), batch_size, replica, epoch)


def test_a_batch_has_replicas_of_both_orientations(odd):
    """Their padded sizes are their own, not the batch's."""
    wide = [
        {width > height for height, width in (meta["ori_shape"] for meta in each.metas)}
        for each in batches_of(odd_dataset(odd, 0.0), batch_size=100, replica=1)[0].replicas
    ]
    assert {True} in wide
    assert {False} in wide


@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_share_the_replicas_of_a_batch(odd, monkeypatch, world_size):
    """One that has none repeats the first, which does not count."""
    dataset = odd_dataset(odd, 0.5)
    whole, shares = batches_of(dataset), []
    monkeypatch.setattr("tood.runtime.distributed.get_world_size", lambda: world_size)
    for rank in range(world_size):
        monkeypatch.setattr("tood.runtime.distributed.get_rank", lambda rank=rank: rank)
        shares.append([batch for _, batch in batches_from(0, dataset, 4, 2, seed=0, epochs=1, workers=0)])
    for batch, *parts in zip(whole, *shares, strict=True):
        assert [images for part in parts if part.counts for images in orders([part])] == orders([batch])
        assert all(part.number == batch.number for part in parts)
        repeated = [orders([part]) for part in parts if not part.counts]
        assert all(images == orders([batch])[:1] for images in repeated)
    if world_size == 3:
        assert any(not part.counts for share in shares for part in share)


def test_an_epoch_can_begin_at_any_batch(training_images):
    whole = content(batches_of(training_images, batch_size=8, replica=4))
    assert content(batches_of(training_images, batch_size=8, replica=4, skip=3)) == whole[24:]


@pytest.mark.parametrize("workers", [0, 2])
def test_the_same_processes_load_all_epochs_and_nothing_skipped(training_images, monkeypatch, workers):
    """From the middle of an epoch on; the images are those of the epochs one by one."""
    loading, alive, made = [], set(), SeededDataset.__getitem__

    def get(self, key):
        loading.append(key)
        return made(self, key)

    monkeypatch.setattr(SeededDataset, "__getitem__", get)
    per_epoch = math.ceil(len(training_images) / 8)
    expected = [
        batch for epoch in range(3) for batch in batches_of(training_images, batch_size=8, epoch=epoch)
    ]
    loading.clear()
    found = []
    for _, batch in batches_from(per_epoch - 2, training_images, 8, 2, 0, 3, workers):
        alive |= {process.pid for process in multiprocessing.active_children()}
        found.append(batch)
    assert content(found) == content(expected[per_epoch - 2 :])
    assert len(alive) == workers
    if not workers:
        assert len(loading) == len(content(found))


def test_an_epoch_of_real_images(real_images):
    names = [c["name"] for c in json.loads((real_images / TRAIN.annotations).read_text())["categories"]]
    dataset = build_dataset(real_images, *TRAIN, names, (160, 96), 0.5)
    assert_an_epoch(dataset, 2, 2, 0)
    assert_an_epoch(dataset, 8, 4, 0)
    assert dataset.cat_ids[-1] == 90  # COCO's ids have gaps
    for index in range(5):
        height, width = dataset[index]["inputs"].shape[1:]
        assert max(height, width) <= 160
        assert min(height, width) <= 96


def test_images_without_objects_are_for_testing_only(odd, drawn):
    testing, training = odd_dataset(odd, None), odd_dataset(odd, 0.5)
    assert len(testing) == len(ODD_IMAGES)
    ids = {training.get_data_info(index)["img_id"] for index in range(len(training))}
    assert ids == set(ODD_IMAGES) - {5}
    val = json.loads((drawn / VAL.annotations).read_text())
    assert len(build_dataset(drawn, *VAL, CLASSES, (64, 64), None)) == len(val["images"])


@pytest.mark.parametrize("flip", [None, 0.0, 1.0])
def test_labels_and_boxes_are_those_of_the_file(odd, flip):
    dataset = odd_dataset(odd, flip, size=(192, 128))
    for index in range(len(dataset)):
        sample = dataset[index]["data_samples"]
        (width, height), listed = ODD_IMAGES[sample.img_id]
        scale = min(192 / max(width, height), 128 / min(width, height))
        expected = []
        for category, x, y, w, h, crowd in listed:
            x = width - x - w if flip else x
            expected += [(category, *(scale * v for v in (x, y, x + w, y + h)))] * (not crowd)
        found = sample.gt_instances
        boxes = found.bboxes.tensor.tolist()
        categories = [dataset.cat_ids[label] for label in found.labels]
        assert categories == [category for category, *_ in expected]
        for box, (_, *corners) in zip(boxes, expected, strict=True):
            assert box == pytest.approx(corners, abs=1)  # the sides of an image are rounded
        assert len(sample.ignored_instances) == sum(crowd for *_, crowd in listed)


# Configuration


def flatten(nested, place="") -> dict:
    """Dotted keys and the values they lead to."""
    if not isinstance(nested, dict):
        return {place: nested}
    return {
        deeper: value
        for key, inner in nested.items()
        for deeper, value in flatten(inner, f"{place}.{key}" if place else key).items()
    }


def plain(value):
    return list(value) if isinstance(value, tuple) else value


@pytest.mark.parametrize("scale", ["smoke", "mini", "paper"])
@pytest.mark.parametrize("run", RUNS)
def test_resolving_changes_what_is_named_and_nothing_else(scale, run):
    settings = Plan({"scale": scale}).settings(run)
    found = flatten(resolve(settings, ODD, Path("initial.pth")).to_dict())
    declared = settings["run"]
    expected = flatten(Config.fromfile(EXPERIMENTS / "configs" / declared["config"]).to_dict())
    head = settings["heads"].get(expected["model.bbox_head.type"], {})
    if expected.get("model.bbox_head.norm_cfg", 0) is None:  # as if it said nothing
        del expected["model.bbox_head.norm_cfg"]
    _, published = expected["input.size"]
    for key, change in {
        "model.bbox_head": head,
        **{k: settings[k] for k in ("model", "input", "train")},
    }.items():
        expected |= flatten(change, key)
    # A mapping that a scale takes away, such as a normalisation, takes its keys along.
    taken = [f"{key}." for key, value in expected.items() if value is None]
    expected = {key: value for key, value in expected.items() if not key.startswith(tuple(taken))}
    for key, sides in expected.items():
        if key.startswith("input.train_short_sides."):  # they shrink with the images
            shorter = expected["input.size"][1]
            expected[key] = [round(side * shorter / published) for side in sides]
    expected |= declared["options"]
    expected |= {
        "model.bbox_head.num_classes": 3,
        "model.backbone.init_cfg.type": "Pretrained",
        "model.backbone.init_cfg.checkpoint": "initial.pth",
        "classes": ["truck", "bird", "cat"],
        "schedule.epochs": declared["epochs"],
        "schedule.milestones": declared["milestones"],
    }
    assert {k: plain(v) for k, v in found.items()} == {k: plain(v) for k, v in expected.items()}


def test_options_of_the_run_come_last():
    settings = Plan({}).settings("tood_af")
    options = {"train.lr": 0.5, "model.neck.out_channels": 48, "input.size": [96, 80]}
    options["model.bbox_head.anchor_generator.octave_base_scale"] = 6
    resolved = flatten(resolve(settings, ODD, None).to_dict())
    settings["run"]["options"] = options
    assert flatten(resolve(settings, ODD, None).to_dict()) == resolved | options
    assert all(resolved[key] != value for key, value in options.items())


def test_without_weights_the_backbone_starts_at_random():
    config = resolve(Plan({}).settings("tood_af"), ODD, None)
    assert config.model.backbone.init_cfg is None
    states = []
    for seed in (0, 0, 1):
        set_random_seed(seed)
        model = build_model(config)
        model.init_weights()
        states.append(model.backbone.conv1.weight.detach().clone())
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_weights_are_loaded_into_the_backbone(tmp_path):
    config = resolve(Plan({}).settings("atss_af"), ODD, tmp_path / "initial.pth")
    state = {name: torch.rand_like(p) for name, p in build_model(config).backbone.named_parameters()}
    torch.save(state, tmp_path / "initial.pth")
    model = build_model(config)
    model.init_weights()
    for name, parameter in model.backbone.named_parameters():
        assert torch.equal(parameter, state[name]), name


# Training


def configured(run: str, options: dict | None = None, categories=DRAWN) -> Config:
    settings = Plan({}).settings(run)
    settings["run"]["options"] |= options or {}
    return resolve(settings, categories, None)


def initialised(config: Config, seed: int = 0):
    set_random_seed(seed)
    model = build_model(config)
    model.init_weights()
    return model


def trained(dataset, folder: Path, config: Config, seed=0, model=None, **options):
    """A model after training, what `train` returned, and the entries of its loss log."""
    model = model or initialised(config, seed)
    loss_log = folder / "runs" / "losses.jsonl"
    computing = Computing(**{name: options.pop(name) for name in Computing.model_fields if name in options})
    summary = train(
        model,
        dataset,
        config,
        seed=seed,
        device=CPU,
        computing=computing,
        reports=Reports("train", loss_log),
        **options,
    )
    return model, summary, [json.loads(line) for line in loss_log.read_text().splitlines()]


def bits(model) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in model.state_dict().items()}


@pytest.fixture
def every_iteration_logged(monkeypatch):
    monkeypatch.setattr(loop, "LOG_INTERVAL", 1)


@pytest.mark.parametrize(
    ("run", "options"),
    [
        # Warm-up alone or alignment alone: from one to the other the loss falls without any learning.
        ("atss_af_thead", {}),
        ("tood_af", {"model.train_cfg.initial_epoch": 0}),
        ("atss_af", {}),
        ("fovea", {}),
        ("fovea_thead", {}),
        (
            "fovea_thead",
            {"model.bbox_head.loss_bbox": {"_delete_": True, "type": "tood.LogDistanceGIoULoss"}},
        ),
        ("fcos_imprv", {}),
        ("fcos_imprv_thead", {}),
        ("tal_tap_18e", {"model.train_cfg.initial_epoch": 0}),
        # Of the schemes of Table 2 that mmdet lacks; MAL's loss is a logarithm that falls too slowly
        ("noisy_anchor", {}),
        # Of two images, the boxes' weights begin with a sum below the least divisor: the loss rises first
        ("atss_qfl", {"train.replica": 8}),
        ("paa", {}),
    ],
    ids=lambda value: value if isinstance(value, str) else ",".join(value) or "as declared",
)
@pytest.mark.usefixtures("every_iteration_logged")
def test_the_loss_falls(training_images, tmp_path, run, options):
    config = configured(run, options)
    config.schedule = dict(epochs=8, milestones=[])
    _, summary, entries = trained(training_images, tmp_path, config, iterations=40)
    losses = [entry["loss"] for entry in entries]
    assert (len(losses), summary["iterations"]) == (40, 40)
    assert np.mean(losses[-8:]) < 0.93 * np.mean(losses[:8])
    for entry in entries:
        parts = [value for key, value in entry.items() if key.startswith("loss_") or key.endswith("_loss")]
        assert entry["loss"] == pytest.approx(sum(parts), rel=1e-5)


def test_a_seed_decides_every_bit(training_images, tmp_path):
    config = configured("tood_af")

    def weights(seed, initial=None, workers=0):
        model = initialised(config, seed if initial is None else initial)
        trained(training_images, tmp_path, config, seed, model, iterations=7, workers=workers)
        return bits(model)

    first = weights(0)
    assert weights(0) == first
    assert weights(0, workers=2) == first
    assert weights(1, initial=0) != first  # order and augmentation alone


@pytest.mark.usefixtures("every_iteration_logged")
def test_a_whole_schedule(training_images, tmp_path, monkeypatch):
    config = configured("tood_af", {"train.warmup_iterations": 4, "train.batch_size": 16})
    config.schedule = dict(epochs=3, milestones=[1, 2])
    model, told = initialised(config), []
    tell = model.bbox_head.set_progress
    monkeypatch.setattr(model.bbox_head, "set_progress", lambda *now: told.append(now) or tell(*now))
    _, summary, entries = trained(training_images, tmp_path, config, model=model)
    per_epoch = math.ceil(len(training_images) / 16)
    assert [epoch for epoch, _ in told] == [epoch for epoch in range(3) for _ in range(per_epoch)]
    assert (summary["iterations"], summary["images"]) == (3 * per_epoch, 3 * len(training_images))
    assert summary["images_per_second"] > 0
    assert summary["peak_memory_mb"] is None
    passed = [(iteration + 1) / per_epoch for iteration in range(3 * per_epoch)]
    assert [entry["epoch"] for entry in entries] == pytest.approx(passed)
    assert [entry["lr"] for entry in entries] == [
        learning_rate(
            iteration,
            base=config.train.lr,
            iterations_per_epoch=per_epoch,
            milestones=[1, 2],
            warmup_iterations=4,
            warmup_factor=config.train.warmup_factor,
            warmup="linear",
        )
        for iteration in range(3 * per_epoch)
    ]


@pytest.mark.usefixtures("every_iteration_logged")
def test_the_head_is_told_the_progress_and_asked_for_its_positives(training_images, tmp_path, monkeypatch):
    config = configured("mal", {"train.batch_size": 16})
    config.schedule = dict(epochs=4, milestones=[3])
    model, told = initialised(config), []
    tell = model.bbox_head.set_progress
    monkeypatch.setattr(model.bbox_head, "set_progress", lambda *now: told.append(now) or tell(*now))
    *_, entries = trained(training_images, tmp_path, config, model=model, iterations=5)
    assert [share for _, share in told] == pytest.approx([step / 12 for step in range(5)])  # of the schedule
    for entry in entries:
        assert entry["objects"] >= 8
        assert 1 <= entry["positives"] <= 40  # the size of a bag
        assert 0 < entry["positive_iou"] < 1


@pytest.mark.parametrize(("iterations", "recorded"), [(1, [1]), (5, [5]), (6, [5, 6]), (11, [5, 10, 11])])
def test_training_stops_after_so_many_iterations(training_images, tmp_path, iterations, recorded):
    """An entry per epoch of five iterations, and one of the last."""
    config = configured("atss_ab")
    _, summary, entries = trained(training_images, tmp_path, config, iterations=iterations)
    assert summary["iterations"] == iterations
    assert [entry["iteration"] for entry in entries] == recorded
    assert [entry["epoch"] for entry in entries] == [iteration / 5 for iteration in recorded]


def test_a_step_is_that_of_clipped_sgd(training_images, tmp_path):
    changes = {"train.warmup_iterations": 0, "train.weight_decay": 0.0, "train.grad_clip": 0.1}
    config = configured("tood_ab", changes | {"train.lr": 0.5})
    model = initialised(config)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trained(training_images, tmp_path, config, model=model, iterations=1)
    change = sum((p.detach() - before[name]).double().square().sum() for name, p in model.named_parameters())
    assert change.sqrt().item() == pytest.approx(0.5 * 0.1, rel=1e-3)


def test_momentum_and_weight_decay_act_on_every_parameter(training_images, tmp_path, monkeypatch):
    """Where the loss is flat, two steps are these of SGD with momentum."""
    lr, decay, momentum = 0.5, 0.1, 0.7
    changes = {"warmup_iterations": 0, "lr": lr, "weight_decay": decay, "momentum": momentum}
    config = configured("tood_af", {f"train.{key}": value for key, value in changes.items()})
    model = initialised(config)
    loss_by_feat = model.bbox_head.loss_by_feat
    monkeypatch.setattr(
        model.bbox_head, "loss_by_feat", lambda *a, **k: {n: 0 * v for n, v in loss_by_feat(*a, **k).items()}
    )
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trained(training_images, tmp_path, config, model=model, iterations=2)
    first = 1 - lr * decay
    second = first - lr * (momentum * decay + decay * first)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), before[name] * second, msg=name)


def spoil(monkeypatch, model, iteration: int, factor: float) -> list[int]:
    """Multiply the box loss of one iteration, from 1; the list has an entry for each call so far."""
    calls, loss_by_feat = [], model.bbox_head.loss_by_feat

    def spoilt(*args, **kwargs):
        calls.append(1)
        losses = loss_by_feat(*args, **kwargs)
        return losses | {"loss_bbox": losses["loss_bbox"] * factor} if len(calls) == iteration else losses

    monkeypatch.setattr(model.bbox_head, "loss_by_feat", spoilt)
    return calls


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_ends_the_training(training_images, tmp_path, monkeypatch, value):
    config = configured("tood_af", {"train.replica": 8})
    model = initialised(config)
    calls = spoil(monkeypatch, model, 4, value)
    with pytest.raises(Diverged, match=rf"{value} at iteration 3 \(epoch 0"):
        trained(training_images, tmp_path, config, model=model, iterations=10)
    assert len(calls) == 4
    assert all(parameter.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("end", ["log", "checkpoint", "stop"])
def test_as_on_a_gpu_a_loss_that_is_no_number_is_found_later(training_images, tmp_path, monkeypatch, end):
    """At the next entry of the log, checkpoint or end; no checkpoint holds what came after it."""
    monkeypatch.setattr(loop, "LossWatch", lambda at_once, describe: LossWatch(False, describe))
    config = configured("tood_af", {"train.replica": 8})
    model = initialised(config)
    calls = spoil(monkeypatch, model, 3, float("nan"))
    monkeypatch.setattr(loop, "LOG_INTERVAL", 4 if end == "log" else 100)
    checkpoints = Checkpoints(tmp_path / "saved", "identity", 10, {"log": 1, "checkpoint": 4}.get(end))
    if end == "log":  # not so often that the save would find it
        monkeypatch.setattr(checkpoints, "due", lambda done: done == 2)
    stop = (lambda: len(calls) == 4) if end == "stop" else (lambda: False)
    with pytest.raises(Diverged, match=r"nan at iteration 2 \(epoch 0, lr 0"):
        trained(
            training_images, tmp_path, config, model=model, iterations=20, checkpoints=checkpoints, stop=stop
        )
    assert len(calls) == 4
    saved = [path.name.split(".")[0] for path in sorted((tmp_path / "saved").glob("*.pth"))]
    assert saved == (["000000002"] if end == "log" else [])


def test_parts_of_a_batch_train_the_same(training_images, tmp_path):
    """In float64, as float32's last bit soon decides another assignment."""
    config = configured("tood_af", {"model.backbone.norm_eval": True})
    models = [initialised(config).double() for _ in range(3)]
    _, whole, parts = models
    trained(training_images, tmp_path, config, model=whole, iterations=6)
    trained(training_images, tmp_path, config, model=parts, iterations=6, micro_batch=3)
    for before, a, b in zip(*(model.parameters() for model in models), strict=True):
        assert (a - b).abs().max() <= 1e-9 * (a - before).abs().max()
    assert bits(whole) != bits(parts)  # they were computed in different ways


def test_parts_are_refused_where_batch_normalisation_learns(training_images, tmp_path):
    with pytest.raises(RuntimeError, match=r"norm_eval=true"):
        trained(training_images, tmp_path, configured("tood_af"), iterations=1, micro_batch=4)


@pytest.mark.slow
@pytest.mark.parametrize("run", [*one_of_each_head(), "tood_x101_64x4d_dcn"])
def test_every_head_goes_on_from_a_checkpoint(training_images, tmp_path, run):
    """Heads included that keep something besides parameters."""
    config = configured(run, {"model.train_cfg.initial_epoch": 1} if run.startswith("tood") else {})
    expected, *_ = trained(training_images, tmp_path / "whole", config, iterations=8)

    def checkpoints():
        return Checkpoints(tmp_path / "checkpoints", "identity", minutes=10, iterations=1)

    asked = iter(range(100))
    with pytest.raises(Interrupted):
        trained(
            training_images,
            tmp_path / "parts",
            config,
            iterations=8,
            checkpoints=checkpoints(),
            stop=lambda: next(asked) == 6,
        )
    found, _, entries = trained(
        training_images, tmp_path / "parts", config, iterations=8, checkpoints=checkpoints()
    )
    assert bits(found) == bits(expected)
    assert [entry["iteration"] for entry in entries] == [5, 8]


def test_images_whose_only_object_is_a_crowd_train(odd, tmp_path):
    crowds = {image: (size, [(2, 5, 5, 30, 30, 1)]) for image, (size, _) in ODD_IMAGES.items()}
    write_coco(odd / "annotations" / "crowds.json", crowds, ODD)
    dataset = build_dataset(
        odd, "annotations/crowds.json", VAL.images, ["truck", "bird", "cat"], (64, 64), 0.5
    )
    config = configured("tood_af", {"model.train_cfg.initial_epoch": 1}, ODD)
    config.schedule.epochs = 2
    before = bits(model := initialised(config))
    _, summary, records = trained(dataset, tmp_path, config, model=model)
    assert summary["iterations"] == 2 * math.ceil(len(dataset) / 8)
    assert all(record["objects"] == 0 and record["loss_bbox"] == 0 < record["loss"] for record in records)
    assert bits(model) != before  # the background trains, and nothing becomes NaN by it
    assert all(parameter.isfinite().all() for parameter in model.parameters())


# Checkpoints


def save_model(path, model, meta):
    path.parent.mkdir(exist_ok=True)
    torch.save(weights_of(model, meta), path)


def test_a_model_and_its_meta_come_back(tmp_path):
    config = configured("tood_af")
    model, other = initialised(config, 0), initialised(config, 1)
    meta = {"settings": Plan({}).settings("tood_af"), "seed": 3, "classes": config.classes}
    save_model(tmp_path / "new" / "model.pth", model, meta)
    assert bits(other) != bits(model)
    assert load_model(tmp_path / "new" / "model.pth", other) == meta
    assert bits(other) == bits(model)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["model.pth"]


def spoil_by_truncation(path):
    path.write_bytes(path.read_bytes()[:-1000])


def spoil_by_another_model(path):
    save_model(path, initialised(configured("atss_af")), {})


def spoil_by_other_classes(path):
    save_model(path, initialised(configured("tood_af", categories=ODD)), {})


def spoil_by_foreign_content(path):
    torch.save({"weights": torch.zeros(3)}, path)


def spoil_by_missing_meta(path):
    torch.save({"state_dict": initialised(configured("tood_af")).state_dict()}, path)


@pytest.mark.parametrize(
    "spoil",
    [
        Path.unlink,
        spoil_by_truncation,
        spoil_by_another_model,
        spoil_by_other_classes,
        spoil_by_foreign_content,
        spoil_by_missing_meta,
    ],
)
def test_a_file_that_does_not_fit_is_named(tmp_path, spoil):
    config, path = configured("tood_af"), tmp_path / "model.pth"
    save_model(path, initialised(config), {})
    spoil(path)
    with pytest.raises(RuntimeError, match=r"model\.pth: cannot be loaded into this run's model"):
        load_model(path, initialised(config))


def test_a_trained_run_is_what_the_scripts_get(drawn, tmp_path):
    model = initialised(configured("tood_af"), 5)
    save_model(tmp_path / "model.pth", model, {})
    write_manifest(tmp_path / "manifest.json", drawn, DRAWN)
    job = MeasuringJob(
        settings=Plan({}).settings("tood_af"),
        model=tmp_path / "model.pth",
        manifest=tmp_path / "manifest.json",
        images=4,
    )
    loaded = load_trained(job, Execution(device="cpu"))
    assert bits(loaded.model) == bits(model)
    assert (loaded.device, list(loaded.indices), len(loaded.dataset)) == (CPU, [0, 1, 2, 3], 6)
    assert loaded.annotations == drawn / VAL.annotations
    with pytest.raises(RuntimeError, match=r"model\.pth"):
        load_trained(job.model_copy(update={"settings": Plan({}).settings("tal")}), Execution(device="cpu"))


# Evaluation


def perfect(images=ODD_IMAGES) -> list[dict]:
    return [
        {"image_id": image, "category_id": category, "bbox": box, "score": 0.9}
        for image, (_, listed) in images.items()
        for category, *box, crowd in listed
        if not crowd
    ]


def test_perfect_detections_have_an_ap_of_100(odd):
    metrics = coco_ap(odd / VAL.annotations, perfect(), list(ODD_IMAGES))
    assert tuple(metrics) == AP_NAMES
    for name in ("AP", "AP50", "AP75", "APS", "APM"):
        assert metrics[name] == pytest.approx(100)
    assert math.isnan(metrics["APL"])  # there is no object of 96 x 96 pixels


def test_no_detections_have_an_ap_of_0(odd):
    nothing = coco_ap(odd / VAL.annotations, [], list(ODD_IMAGES))
    wrong = [{"image_id": 5, "category_id": 2, "bbox": [0, 0, 9, 9], "score": 0.5}]
    for metrics in (nothing, coco_ap(odd / VAL.annotations, wrong, list(ODD_IMAGES))):
        assert metrics["AP"] == metrics["AP50"] == metrics["AP75"] == metrics["APM"] == 0
        assert math.isnan(metrics["APL"])


def test_only_the_given_images_count(odd):
    some = [d for d in perfect() if d["image_id"] in (31, 12, 8)]
    assert coco_ap(odd / VAL.annotations, some, [8, 31, 12])["AP"] == pytest.approx(100)
    assert coco_ap(odd / VAL.annotations, some, list(ODD_IMAGES))["AP"] < 90
    assert coco_ap(odd / VAL.annotations, perfect(), [31])["AP"] == pytest.approx(100)


@pytest.fixture
def omniscient(odd, monkeypatch):
    """A model that finds every object, in the pixels of its input, and its test images."""
    dataset = odd_dataset(odd, None, size=(160, 120))
    truth = {dataset[i]["data_samples"].img_id: dataset[i]["data_samples"] for i in range(len(dataset))}
    model = initialised(configured("tood_af", categories=ODD))

    def dense_by_feat(*outs, batch_img_metas, clip):
        levels = []
        for meta in batch_img_metas:
            objects = truth[meta["img_id"]].gt_instances
            scores = torch.nn.functional.one_hot(objects.labels, 3) * 0.9
            boxes = objects.bboxes.tensor
            levels.append([DenseLevel(scores, scores, boxes, boxes[:, :2], (1, len(boxes)), 8)])
        return levels

    monkeypatch.setattr(model.bbox_head, "dense_by_feat", dense_by_feat)
    return model, dataset


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 0), (3, 0), (3, 2)])
def test_detections_are_in_original_pixels_and_categories(omniscient, odd, batch_size, workers):
    model, dataset = omniscient
    found, image_ids = detect(
        model, dataset, device=CPU, label="test", batch_size=batch_size, workers=workers
    )
    assert image_ids == list(ODD_IMAGES)
    assert all(type(value) in (int, float) for detection in found for value in detection["bbox"])
    assert json.loads(json.dumps(found)) == found

    def order(entry):
        return entry["image_id"], entry["category_id"]

    for detection, truth in zip(sorted(found, key=order), sorted(perfect(), key=order), strict=True):
        assert order(detection) == order(truth)
        assert detection["bbox"] == pytest.approx(truth["bbox"], abs=1e-3)
        assert detection["score"] == pytest.approx(0.9)
    assert coco_ap(odd / VAL.annotations, found, image_ids)["AP"] == pytest.approx(100)


def test_detecting_on_some_images(omniscient):
    model, dataset = omniscient
    found, image_ids = detect(model, dataset, device=CPU, label="test", batch_size=2, indices=range(3))
    assert image_ids == list(ODD_IMAGES)[:3]
    assert {detection["image_id"] for detection in found} == {31, 12}


@pytest.mark.parametrize("run", ["tood_af", "atss_af"])
def test_real_predictions_stay_within_their_image(odd, run):
    model = initialised(configured(run, {"model.test_cfg.score_thr": 0.0}, ODD))
    dataset = odd_dataset(odd, None, size=(160, 120))
    found, _ = detect(model, dataset, device=CPU, label="test", batch_size=4)
    assert {detection["image_id"] for detection in found} == set(ODD_IMAGES)
    assert {detection["category_id"] for detection in found} <= {2, 7, 90}
    for detection in found:
        (width, height), _ = ODD_IMAGES[detection["image_id"]]
        x, y, w, h = detection["bbox"]
        assert min(x, y, w, h) >= 0
        assert x + w <= width + 1e-3
        assert y + h <= height + 1e-3


def test_dense_predictions_and_objects_are_in_input_pixels(odd):
    model = initialised(configured("tood_af", categories=ODD))
    dataset = odd_dataset(odd, None, size=(160, 120))
    ids = []
    for sample, levels in dense_predictions(model, dataset, device=CPU, label="test", indices=[0, 2, 4]):
        ids.append(sample.img_id)
        (_, height), listed = ODD_IMAGES[sample.img_id]
        scale = sample.img_shape[0] / height
        assert scale > 1.2
        corners = [[x, y, x + w, y + h] for _, x, y, w, h, crowd in listed if not crowd]
        expected = scale * torch.tensor(corners, dtype=torch.float32).reshape(-1, 4)
        torch.testing.assert_close(sample.gt_instances.bboxes, expected, rtol=0, atol=1)
        assert [level.stride for level in levels] == [4, 8, 16]
        for level in levels:
            assert len(level.scores) == len(level.boxes) == len(level.points) == math.prod(level.grid)
            assert level.grid[0] == math.ceil(sample.batch_input_shape[0] / level.stride)
    assert ids == [31, 5, 44]


def test_predictions_do_not_depend_on_the_batch(tmp_path):
    """Images of one size go together, so that none is padded for another; results are in the file's order."""
    model = initialised(configured("tood_af", {"model.test_cfg.score_thr": 0.0}, ODD))
    ids, sizes = (9, 4, 7, 5, 8), ((96, 64), (48, 80))
    images = {image: (sizes[number % 2], [(2, 4, 8, 30, 30, 0)]) for number, image in enumerate(ids)}
    dataset = odd_dataset(write_images(tmp_path, images), None, size=(160, 120))
    levels, found = [], []
    for size in (1, 2):
        seen: dict = {}

        def observe(sample, dense, seen=seen) -> None:
            assert tuple(sample.batch_input_shape) == tuple(sample.pad_shape)
            seen[sample.img_id] = dense

        found.append(detect(model, dataset, device=CPU, label="", batch_size=size, observe=observe))
        levels.append(seen)
    alone, together = levels
    assert list(alone) == list(ids)
    assert list(together) == [9, 7, 4, 5, 8]
    for image, own in alone.items():
        for a, b in zip(own, together[image], strict=True):
            torch.testing.assert_close(a._asdict(), b._asdict(), rtol=1e-5, atol=1e-5)
    (one, one_ids), (other, other_ids) = found
    assert one_ids == other_ids == list(ids)
    assert [each["image_id"] for each in one] == [each["image_id"] for each in other]


def test_biases_of_offsets_have_no_rate_of_their_own():
    """As those of mmcv's deformable layers in mmengine; other biases have twice the rate and no decay."""
    model = nn.ModuleDict({"dcn": ModulatedDeformConv2d(2, 2, 3, bias=True), "conv": nn.Conv2d(2, 2, 1)})
    train_cfg = configured("fcos").train
    assert (train_cfg.bias_lr_mult, train_cfg.bias_decay_mult) == (2.0, 0.0)
    groups = build_optimizer(model, train_cfg).param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {names[id(p)]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    plain, bias = (train_cfg.lr, train_cfg.weight_decay), (2 * train_cfg.lr, 0.0)
    assert found.pop("conv.bias") == bias
    assert found.pop("dcn.bias") == bias
    assert set(found.values()) == {plain}
    assert "dcn.conv_offset.bias" in found


def test_parameters_of_equal_settings_are_updated_as_one_group():
    """As one by one, to the bit, momentum and a changed rate included."""
    train_cfg = configured("fcos_imprv").train
    one, other = (initialised(configured("fcos_imprv")) for _ in range(2))
    optimizer = build_optimizer(one, train_cfg)
    assert len(optimizer.param_groups) == 3  # biases, those of norms, and all others
    settings = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    groups = [
        {"params": [theirs]} | {name: settings[id(ours)][name] for name in ("lr", "weight_decay", "momentum")}
        for ours, theirs in zip(one.parameters(), other.parameters(), strict=True)
    ]
    apart = torch.optim.SGD(groups, fused=True)
    for step in range(3):
        for ours, theirs in zip(one.parameters(), other.parameters(), strict=True):
            ours.grad = torch.randn_like(ours)
            theirs.grad = ours.grad.clone()
        for each in (optimizer, apart):
            for group in each.param_groups:
                group["lr"] *= 1 + step
            each.step()
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
