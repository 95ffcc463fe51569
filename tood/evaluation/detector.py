"""A detector for any image: a trained run, or a file of weights with its configuration."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from mmcv.transforms import Compose
from mmdet.models.detectors import SingleStageDetector
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.structures import InstanceData
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_V2_Weights

from tood.data.loading import META_KEYS, loaded, resizing
from tood.data.manifest import read_manifest
from tood.engine.config import build_model, resolve
from tood.engine.weights import load_model
from tood.evaluation.importing import built, checked, fitted
from tood.evaluation.mmdet_config import of_mmdet
from tood.evaluation.mmdet_levels import dense_levels
from tood.evaluation.weight_meta import ImportFailed, Weights, declared_settings, read
from tood.ledger.status import trained_weights
from tood.models.common.dense_level import DenseLevel
from tood.models.common.dense_prediction import DensePredictionMixin, select_detections
from tood.runtime.device import choose_device, usable_gpus
from tood.runtime.quiet import quiet
from tood.study.declarations import ExperimentError, load_runs
from tood.study.paths import StudyPaths
from tood.study.plan import Plan
from tood.study.released import ReleasedFile, load_released
from tood.study.settings import Settings

_UNNAMED = (
    "The file names no classes, so COCO's 80 are taken; a file saved with "
    'meta={"dataset_meta": {"classes": (...)}} beside its state_dict names its own'
)


@dataclass
class Detector:
    """A model with its weights, and its transforms of an image."""

    name: str
    model: SingleStageDetector
    classes: Sequence[str]
    category_ids: Sequence[int]  # of the classes
    transforms: list[dict]  # of mmdet: from a loaded image to the model's input
    test_cfg: dict
    device: torch.device

    def prepare(self, image: np.ndarray) -> dict:
        """`inputs` [3, H, W] at the model's input size, and `data_samples`, of an image [H, W, 3] BGR.

        Raises:
            ValueError: the resize would leave nothing of a side.
        """
        try:
            return Compose(self.transforms)({"img_id": 0, "img_path": None} | loaded(image))
        except cv2.error as error:
            if error.code != cv2.Error.StsAssert:
                raise
            height, width = image.shape[:2]
            raise ValueError(
                f"{width} x {height} pixels are too thin: at the model's input size a side has less than one"
            ) from error

    def predict(self, prepared: dict) -> tuple[DetDataSample, list[DenseLevel]]:
        """The prepared image's sample, and every anchor's prediction in pixels of the input."""
        (prediction,) = self._predict([prepared])
        return prediction

    def detect(self, image: np.ndarray) -> InstanceData:
        """Detections on an image [H, W, 3] BGR by falling score, boxes in its pixels.

        Raises:
            ValueError: as `prepare`.
        """
        return self._select(*self.predict(self.prepare(image)))

    def detect_batch(self, images: Sequence[np.ndarray]) -> list[InstanceData]:
        """As `detect`, for several images; those of one size at the model's input pass through it together.

        Raises:
            ValueError: as `prepare`.
        """
        of_size: dict[tuple[int, ...], list[int]] = {}
        prepared = [self.prepare(image) for image in images]
        for place, entry in enumerate(prepared):
            of_size.setdefault(tuple(entry["inputs"].shape), []).append(place)
        detections: dict[int, InstanceData] = {}
        for places in of_size.values():
            predicted = self._predict([prepared[place] for place in places])
            for place, prediction in zip(places, predicted, strict=True):
                detections[place] = self._select(*prediction)
        return [detections[place] for place in range(len(images))]

    @torch.no_grad()
    def _predict(self, prepared: Sequence[dict]) -> list[tuple[DetDataSample, list[DenseLevel]]]:
        """As `predict`, for images of one size at the model's input."""
        batch = {key: [entry[key] for entry in prepared] for key in ("inputs", "data_samples")}
        data = self.model.data_preprocessor(batch)
        samples = data["data_samples"]
        outs = self.model.bbox_head(self.model.extract_feat(data["inputs"]))
        metas = [sample.metainfo for sample in samples]
        if isinstance(self.model.bbox_head, DensePredictionMixin):
            clip = self.test_cfg.get("clip", True)
            levels = self.model.bbox_head.dense_by_feat(*outs, batch_img_metas=metas, clip=clip)
        else:
            alone = (
                tuple([level[place : place + 1] for level in maps] for maps in outs)
                for place in range(len(metas))
            )
            levels = [dense_levels(self.model.bbox_head, *pair) for pair in zip(alone, metas, strict=True)]
        return list(zip(samples, levels, strict=True))

    def _select(self, sample: DetDataSample, levels: list[DenseLevel]) -> InstanceData:
        return select_detections(levels, sample.metainfo, self.test_cfg, rescale=True)


def load_detectors(
    runs: Sequence[str],
    checkpoints: Sequence[Path],
    configs: Sequence[str],
    study: str | None,
    seed: int | None,
    device: str,
) -> tuple[list[Detector], Plan | None]:
    """The detectors of runs and of files, in this order, and the study of the runs.

    Args:
        runs: as for `of_run`.
        checkpoints: as for `of_file`.
        configs: of the checkpoints, one for each or one for all; without any, the files name theirs.
        study: as for `of_run`.
        seed: as for `of_run`.
        device: as for `choose_device`.

    Raises:
        ExperimentError: there is none, one cannot be loaded, or there are more or fewer configurations.
    """
    if not runs and not checkpoints:
        raise ExperimentError("no detector: give --run RUN, or --checkpoint FILE")
    if len(configs) not in (0, 1, len(checkpoints)) or (configs and not checkpoints):
        raise ExperimentError(
            f"--config: {len(configs)} for {len(checkpoints)} --checkpoint; give one for each, or one for all"
        )
    detectors, plan = [], None
    for run in runs:
        detector, plan = of_run(run, study, seed, device)
        detectors.append(detector)
    one_for_all: list[str | None] = [configs[0] if configs else None]
    of_each = configs if len(configs) > 1 else one_for_all * len(checkpoints)
    detectors += [of_file(*pair, device) for pair in zip(checkpoints, of_each, strict=True)]
    return detectors, plan


def of_run(
    run: str, study: str | None = None, seed: int | None = None, device: str = "auto"
) -> tuple[Detector, Plan]:
    """The detector of a trained or imported run, and its study.

    Args:
        run, study, seed: as for `trained_weights`.
        device: as for `choose_device`.

    Raises:
        ExperimentError: as `trained_weights`, or the weights do not fit.
    """
    plan, number, weights = trained_weights(run, study, seed)
    paths = StudyPaths(plan.name)
    if weights != paths.run(run, number).model:
        return replace(of_file(weights, None, device), name=run), plan
    categories = read_manifest(paths.manifest)["categories"]
    config = resolve(plan.settings(run), categories, None)
    quiet()
    model = build_model(config)
    try:
        load_model(weights, model)
    except RuntimeError as error:
        raise ExperimentError(f"{error}; train the run again") from error
    ids = [category["id"] for category in categories]
    return _ready(run, model, config.classes, ids, own_transforms(config), device), plan


def of_file(checkpoint: Path, config: str | None = None, device: str = "auto") -> Detector:
    """The detector of a file of weights.

    Args:
        checkpoint: of this suite, of the authors' release, or of mmdet.
        config: id of a run, or a configuration file: a path, or a name in mmdet's own folder. None means that
            `experiments/released.yaml` or the file itself names it.
        device: as for `choose_device`.

    Raises:
        ExperimentError: the file or the configuration cannot be read or does not fit, or its head is not
            dense or cannot be read.
    """
    declared, weights = load_released().get(checkpoint.name), None
    try:
        checked(checkpoint, declared.digest if declared else "")
        weights = read(checkpoint)
        settings = _settings(checkpoint, config, weights, declared)
        if settings is None:
            model, transforms = of_mmdet(str(config))
            model.load_state_dict(fitted(weights.state_dict, model, checkpoint, str(config)))
            _require_classes(model, weights, checkpoint, str(config))
        else:
            categories = [{"name": name} for name in weights.classes]
            model, resolved = built(settings, categories, weights.state_dict, checkpoint)
            transforms = own_transforms(resolved)
    except ImportFailed as error:
        hint = "" if weights is None or weights.named else f". {_UNNAMED}"
        raise ExperimentError(f"{error}{hint}") from error
    ids = category_ids(weights.classes)
    return _ready(checkpoint.stem, model, weights.classes, ids, transforms, device)


def _require_classes(model: SingleStageDetector, weights: Weights, checkpoint: Path, config: str) -> None:
    number = getattr(model.bbox_head, "num_classes", len(weights.classes))
    if number != len(weights.classes):
        named = "names" if weights.named else "is taken to have"
        raise ImportFailed(
            f"{checkpoint}: {named} {len(weights.classes)} classes, and the head of {config} has {number}"
        )


def category_ids(classes: Sequence[str]) -> list[int]:
    """Ids of classes: COCO's own, which have gaps, for its classes, else from 1."""
    # torchvision's list is indexed by id.
    coco = FasterRCNN_ResNet50_FPN_V2_Weights.COCO_V1.meta["categories"]
    if set(classes) == set(coco) - {"__background__", "N/A"}:
        return [coco.index(name) for name in classes]
    return list(range(1, len(classes) + 1))


def _settings(
    checkpoint: Path, given: str | None, weights: Weights, declared: ReleasedFile | None
) -> Settings | None:
    """The declared settings for a file of weights; None if a configuration of mmdet is given."""
    if given is None and weights.settings is not None:
        return declared_settings(weights.settings, checkpoint)
    runs, run = load_runs(), given or (declared.run if declared else "")
    if run in runs:
        settings = Plan({"scale": "paper", "runs": run}).settings(run)
        if declared and declared.run == run:
            settings["run"]["options"] |= declared.options
        return settings
    if given is None:
        raise ExperimentError(
            f"{checkpoint}: does not name its model; give --config: the id of a run (`tood runs` lists them) "
            "or a configuration file of mmdet"
        )
    return None


def own_transforms(config: Config) -> list[dict]:
    """The transforms of `tood.data.loading.build_dataset` for a test image, after reading it."""
    return [resizing(config.input.size, None), {"type": "PackDetInputs", "meta_keys": META_KEYS[2:]}]


def _ready(
    name: str,
    model: SingleStageDetector,
    classes: Sequence[str],
    ids: Sequence[int],
    transforms: list[dict],
    device: str,
) -> Detector:
    """The detector, on its device."""
    try:
        chosen = choose_device(device)
    except RuntimeError as error:
        why = "; ".join(usable_gpus()[1]) or "torch finds no GPU here"
        raise ExperimentError(f"--device {device}: {why}; use cpu") from error
    cfg = dict(model.bbox_head.test_cfg)
    if not isinstance(model.bbox_head, DensePredictionMixin):
        cfg["nms_pre_by"] = "pair"  # mmdet's own selection before NMS
    pipeline = [{"type": "LoadImageFromFile"}, *transforms]
    model.cfg = Config({"test_dataloader": {"dataset": {"pipeline": pipeline}}})  # of `inference_detector`
    return Detector(name, model.to(chosen).eval(), list(classes), list(ids), transforms, cfg, chosen)
