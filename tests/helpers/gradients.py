"""A detector's gradient on a made batch, in float64: what tests share, and what several processes compute.

A case is RUN:EPOCH:IMAGES. `ours` computes the batch with this suite's engine. `theirs` computes one replica
in each process as mmdet's Runner does, by mmdet's own head where it has one, and averages the gradients.
"""

import copy
import functools
import json

import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine import MessageHub
from mmengine.dist import all_gather_object, all_reduce, get_rank, get_world_size
from mmengine.runner import set_random_seed
from mmengine.structures import InstanceData
from torch import Tensor, nn

from helpers.operators import no_rounding, operators_of_torchvision
from tood.data.loading import LocalBatch
from tood.engine.config import build_model, resolve
from tood.engine.replicas import batch_gradient
from tood.evaluation.released import convert
from tood.runtime.distributed import local_batch
from tood.runtime.quiet import quiet
from tood.study.plan import Plan

CATEGORIES = [{"id": number, "name": str(number)} for number in range(1, 5)]
REPLICA = 2  # images
# Runs whose head mmdet has, and mmdet's changes of its configuration
THEIRS = {
    "retinanet": {"type": "RetinaHead"},
    "pisa": {"type": "PISARetinaHead"},
    "freeanchor": {"type": "FreeAnchorRetinaHead"},
    "fovea": {"type": "FoveaHead"},
    "fcos_imprv": {"type": "FCOSHead"},
    "atss_ab": {"type": "ATSSHead"},
    "paa_iou": {"type": "PAAHead"},
    "gfl_r101": {"type": "GFLHead"},
    "vfnet_x101_64x4d_dcn": {"type": "VFNetHead"},
    "tood_af": {"type": "TOODHead"},
    "tood_ab": {"type": "TOODHead"},
}
OURS_ALONE = {
    "ATSSHead": ("conv_bias", "dcn_on_last_conv"),
    "PAAHead": ("conv_bias", "dcn_on_last_conv", "use_iou_pred"),
    "FCOSHead": ("unit",),
}


def settings_of(run: str, options: dict | None = None):
    settings = Plan({}).settings(run)
    settings["run"]["options"] |= {"model.backbone.norm_eval": True} | (options or {})
    config = resolve(settings, CATEGORIES, None)
    if "unit" in config.model.bbox_head:
        config.model.bbox_head.unit = 1.0  # as mmdet's head, which has no other
    return config


@functools.cache
def _initial_model(run: str, options: str, single: torch.dtype):
    """Built once; `single` is what float32 is at present, which `no_rounding` changes."""
    set_random_seed(0)
    model = build_model(settings_of(run, json.loads(options)))
    model.init_weights()
    return model


def make_model(run: str, epoch: int, options: dict | None = None):
    """The narrow detector of a run, its batch normalisation frozen, as the scale `paper` has it."""
    model = copy.deepcopy(_initial_model(run, json.dumps(options), torch.float32))
    model.bbox_head.set_progress(epoch, epoch / 12)
    _add_parameters(model.bbox_head)
    return model.double().train()


def _add_parameters(head) -> None:
    """One that only the loss uses, which must count once on any number of processes, and one unused."""
    head.temperature, head.unused = nn.Parameter(torch.ones(())), nn.Parameter(torch.ones(()))
    loss_by_feat = head.loss_by_feat

    def tempered(*args, **kwargs) -> dict:
        losses = loss_by_feat(*args, **kwargs)
        return {
            name: [part * head.temperature for part in loss]
            if isinstance(loss, list)
            else loss * head.temperature
            for name, loss in losses.items()
        }

    head.loss_by_feat = tempered


def make_their_model(run: str, epoch: int):
    """As `make_model`, with mmdet's own head and the same weights."""
    ours = make_model(run, epoch)
    config = settings_of(run).model
    head = config.bbox_head
    head.update(THEIRS[run])
    for key in OURS_ALONE.get(head.type, ()):
        head.pop(key, None)
    if head.type == "TOODHead":
        config.type = "TOOD"
        config.train_cfg.assigner.type = "TaskAlignedAssigner"
        head.loss_cls.update(type="QualityFocalLoss", use_sigmoid=True, activated=True)
        head.initial_loss_cls = dict(
            type="FocalLoss", use_sigmoid=True, activated=True, gamma=2.0, alpha=0.25, loss_weight=1.0
        )
    for assigner in ("assigner", "initial_assigner"):
        if config.get("train_cfg", {}).get(assigner, {}).get("type") == "tood.ATSSAssigner":
            config.train_cfg[assigner].type = "ATSSAssigner"
    model = MODELS.build(config)
    weights = ours.state_dict()
    names = {name: name for name in model.state_dict()}
    if head.type == "TOODHead":  # by the names that weights of mmdet get here
        probes = {name: torch.tensor(index) for index, name in enumerate(names)}
        names = {list(names)[int(index)]: name for name, index in convert(probes).items()}
    model.load_state_dict({theirs: weights[name] for theirs, name in names.items()}, strict=True)
    MessageHub.get_current_instance().update_info("epoch", epoch)
    _add_parameters(model.bbox_head)
    model.names = names | {f"bbox_head.{name}": f"bbox_head.{name}" for name in ("temperature", "unused")}
    return model.double().train()


def make_batch(images: int) -> list[tuple[Tensor, DetDataSample]]:
    """Images of different sizes with 0 to 3 objects each, some with a crowd; pairs are of three sizes."""
    generator = torch.Generator().manual_seed(1)
    batch = []
    for number in range(images):
        most = ((64, 48), (48, 64), (48, 48))[number // 2 % 3]
        height, width = (side - int(torch.randint(8, (), generator=generator)) for side in most)
        pixels = torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)
        objects = (number + 1) % 4
        corner = torch.rand(objects, 2, generator=generator) * 14
        size = 12 + torch.rand(objects, 2, generator=generator) * 16
        sample = DetDataSample(
            metainfo={"img_id": number, "img_shape": (height, width), "ori_shape": (height, width)}
            | {"scale_factor": (1.0, 1.0)}
        )
        sample.gt_instances = InstanceData(
            bboxes=torch.cat([corner, corner + size], 1).double(),
            labels=torch.randint(0, 4, (objects,), generator=generator),
        )
        crowd = torch.tensor([[2.0, 3.0, 30.0, 36.0]])[: number % 3 == 1]
        sample.ignored_instances = InstanceData(bboxes=crowd.double(), labels=torch.zeros(len(crowd)).long())
        batch.append((pixels, sample))
    return batch


def make_replicas(images: int, replica: int = REPLICA) -> list[dict]:
    """The batch in replicas, the last of which may have fewer images."""
    batch = make_batch(images)
    return [collated(batch[start : start + replica]) for start in range(0, images, replica)]


def collated(batch) -> dict:
    """As the loader gives a replica."""
    inputs, samples = zip(*batch, strict=True)
    return {"inputs": list(inputs), "data_samples": list(samples)}


def whole_batch(images: int, replica: int = REPLICA) -> LocalBatch:
    """All replicas of the batch in one process."""
    replicas = make_replicas(images, replica)
    return LocalBatch(replicas, len(replicas))


def gradients(model) -> dict[str, Tensor | None]:
    return {name: p.grad for name, p in model.named_parameters()}


def assert_same(found: dict, expected: dict, relative: float = 1e-9) -> None:
    """Every parameter's gradient agrees, relative to the largest entry of it."""
    assert found.keys() == expected.keys()
    assert any(grad is not None and grad.any() for grad in expected.values())
    for name, grad in expected.items():
        assert (found[name] is None) == (grad is None), name
        if grad is not None:
            difference = (found[name] - grad).abs().max()
            assert difference <= relative * grad.abs().max(), (name, difference, grad.abs().max())


def ours(run: str, epoch: int, images: int) -> dict[str, Tensor | None]:
    """This process's part of the batch by the engine, with three images at a time."""
    model = make_model(run, epoch)
    replicas = make_replicas(images)
    own = local_batch(replicas)
    batch = LocalBatch(own or replicas[:1], len(replicas), bool(own))
    with no_rounding():
        batch_gradient(model, batch, micro_batch=3)
    return gradients(model)


def theirs(run: str, epoch: int, images: int) -> dict[str, Tensor | None]:
    """One replica in each process, as mmdet trains: the gradients are averaged."""
    own_head = run in THEIRS
    with no_rounding():
        model = make_their_model(run, epoch) if own_head else make_model(run, epoch)
        data = model.data_preprocessor(make_replicas(images)[get_rank()], training=True)
        loss, _ = model.parse_losses(model(**data, mode="loss"))
        loss.backward()
    found = gradients(model)
    present = all_gather_object({name for name, grad in found.items() if grad is not None})
    for name, grad in found.items():
        if any(name in names for names in present):
            total = torch.zeros_like(model.get_parameter(name)) if grad is None else grad
            all_reduce(total)
            found[name] = total / get_world_size()
    return {model.names[name]: grad for name, grad in found.items()} if own_head else found


def of_cases(rank: int, whose: str, cases: list[str]) -> dict[str, dict[str, Tensor | None]]:
    """In one of several connected processes: the gradients of each case. Rank 0 has those of all."""
    quiet()
    operators_of_torchvision(setattr)
    results = {}
    for case in cases:
        run, epoch, images = case.split(":")
        found = {"ours": ours, "theirs": theirs}[whose](run, int(epoch), int(images))
        for other in all_gather_object(found):
            assert_same(found, other, relative=0)
        results[case] = found
    return results if rank == 0 else {}
