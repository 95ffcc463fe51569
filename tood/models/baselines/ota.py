"""OTA (Table 5): points are assigned to objects by an optimal transport of the image's labels.

Paper: Ge et al., "OTA: Optimal Transport Assignment for Object Detection", CVPR 2021. Each object supplies k
labels, the background supplies the rest, each point demands one, and the cost of a pair is its loss. What
the paper leaves open is as in the authors' code (Megvii-BaseDetection/OTA,
`playground/detection/coco/*/fcos.py`).

Three things differ from that code, none of them in what it computes on ordinary images:

- The plan is kept as a logarithm. Each row is divided by its largest entry before rows are compared, which
  keeps their order here and cannot become 0 / 0.
- If the objects ask for more labels than there are points, the background's supply would be negative; here it
  supplies nothing. In the code its logarithm is nan and the assignment meaningless.
- With fewer points than the number of IoUs that decide about k, all of them decide. The code raises an error.
"""

from typing import Any

import torch
from mmdet.models.losses.focal_loss import py_sigmoid_focal_loss
from mmdet.models.losses.utils import weight_reduce_loss
from mmdet.models.task_modules.prior_generators import MlvlPointGenerator
from mmdet.structures.bbox import distance2bbox
from mmdet.utils import reduce_mean
from mmengine.structures import InstanceData
from torch import Tensor

from tood.models.baselines.fcos import FCOSHead
from tood.models.common.dense_level import DenseLevel
from tood.models.common.divisors import Divisors
from tood.models.common.pairs import box_rows_iou, objects_of_points, paired_iou
from tood.models.common.positives import Positives, of_assignment
from tood.models.common.registry import MODELS

IN_BOX = 0.01  # least distance (pixels) of a point from every side, to be inside of an object
OUTSIDE = 1e6  # cost of a pair whose point is not a candidate of the object
NOTHING = -80.0  # used as the logarithm of 0; below it, exponentials are several times slower on a CPU
FAR = 20.0  # largest logarithm of a scaling factor; beyond it the plan is computed anew
LOG_EPS = 1e-8  # added to supply and demand before their logarithm


def inside(points: Tensor, boxes: Tensor) -> Tensor:
    """[G, A] which points [A, 2] are inside of which boxes [G, 4], by more than a rounding error."""
    x, y = points.T  # [A]
    x1, y1, x2, y2 = boxes.T[..., None]  # [G, 1]; an axis of two entries at the end would be slow to reduce
    return (x - x1 > IN_BOX) & (y - y1 > IN_BOX) & (x2 - x > IN_BOX) & (y2 - y > IN_BOX)


def centre_prior(points: Tensor, strides: Tensor, gt_boxes: Tensor, radius: float) -> Tensor:
    """Which points are candidates of which objects: inside of the box and near its centre.

    Args:
        points: [A, 2] pixels.
        strides: [A] of the level of each point, pixels.
        gt_boxes: [G, 4] pixels.
        radius: half side of the square around the centre that counts as near, in strides.

    Returns:
        [G, A] bool
    """
    x, y = ((gt_boxes[:, None, :2] + gt_boxes[:, None, 2:]) / 2).unbind(-1)  # [G, 1]
    reach = radius * strides
    near = ((points[:, 0] - x).abs() < reach) & ((points[:, 1] - y).abs() < reach)  # [G, A]
    return inside(points, gt_boxes) & near


def classification_costs(
    logits: Tensor, gt_labels: Tensor, gamma: float, alpha: float
) -> tuple[Tensor, Tensor]:
    """Focal loss over all classes of each point, if the point goes to an object or to the background.

    Args:
        logits: [A, C].
        gt_labels: [G].
        gamma: of the focal loss.
        alpha: of the focal loss.

    Returns:
        of objects [G, A], of the background [A]
    """
    negative, positive = (  # [A, C] loss of each logit where the target is 0, and where it is 1
        py_sigmoid_focal_loss(
            logits, torch.full_like(logits, target), gamma=gamma, alpha=alpha, reduction="none"
        )
        for target in (0.0, 1.0)
    )
    background = negative.sum(1)  # [A]
    # An object changes the target of one class.
    return background + (positive - negative).T[gt_labels], background


def dynamic_k(ious: Tensor, candidate: Tensor, top: int) -> Tensor:
    """Number of labels that each object supplies.

    Args:
        ious: [G, A] of objects with predicted boxes.
        candidate: [G, A] which of them count.
        top: number of largest IoUs whose sum, rounded down, is k.

    Returns:
        [G] of the type of `ious`, at least 1
    """
    largest = (ious * candidate).topk(min(top, ious.shape[1]), dim=1).values  # [G, top]
    return largest.sum(1).floor().clamp(min=1)


def log_sum(logarithms: Tensor, dim: int) -> Tensor:
    """`logsumexp` that overwrites its input; several times faster if most logarithms are very low."""
    largest = logarithms.amax(dim, keepdim=True)
    total = logarithms.sub_(largest).clamp_(min=NOTHING).exp_().sum(dim)
    return total.log_() + largest.squeeze(dim)


def sinkhorn(cost: Tensor, supply: Tensor, demand: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Logarithm of the plan that moves the supply to the demand at low cost and with high entropy.

    It minimises `(plan * cost).sum() + epsilon * (plan * plan.log()).sum()`. The supply holds exactly, the
    demand as far as the iterations have converged.

    Args:
        cost: [N, A] of moving one unit.
        supply: [N].
        demand: [A], of the same sum.
        epsilon: weight of the entropy.
        iterations: number of them, at least 1.

    Returns:
        [N, A]
    """
    log_supply, log_demand = (supply + LOG_EPS).log(), (demand + LOG_EPS).log()
    u, v = torch.ones_like(supply), torch.ones_like(demand)

    def log_plan() -> Tensor:
        return (u[:, None] + v).sub_(cost).div_(epsilon)

    def update() -> None:
        nonlocal u, v
        v = v + epsilon * (log_demand - log_sum(log_plan(), 0))
        u = u + epsilon * (log_supply - log_sum(log_plan(), 1))

    # The first iteration brings the potentials into the range of the costs. Then the plan itself is rescaled,
    # which takes two sums instead of two logarithms of sums of exponentials. If the scales become too large,
    # the plan is computed anew. The last iteration corrects rounding errors.
    update()
    if iterations > 2:
        plan, rows, columns = log_plan().clamp_(min=NOTHING).exp_(), torch.ones_like(u), torch.ones_like(v)
    for _ in range(iterations - 2):
        columns = log_demand.exp() / (rows @ plan)  # [A]
        rows = log_supply.exp() / (plan * columns).sum(1)  # [N]; a matrix product adds up less exactly
        extremes = torch.cat([torch.stack(scale.aminmax()) for scale in (rows, columns)]).log()
        too_far = extremes.abs().max() > FAR
        # On a GPU this test would wait for the device; computing the plan in vain takes less time
        if cost.device.type == "cpu" and not too_far:
            continue
        u, v = (u + epsilon * rows.log()).where(too_far, u), (v + epsilon * columns.log()).where(too_far, v)
        plan = log_plan().clamp_(min=NOTHING).exp_().where(too_far, plan)
        rows, columns = rows.where(~too_far, 1.0), columns.where(~too_far, 1.0)
    if iterations > 2:
        u, v = u + epsilon * rows.log(), v + epsilon * columns.log()
    if iterations > 1:
        update()
    return log_plan()


def assign_by_plan(log_plan: Tensor) -> Tensor:
    """The supplier that each point goes to.

    Args:
        log_plan: [G + 1, A]; the last row is the background.

    Returns:
        [A] object of each point, -1 for background
    """
    owner = (log_plan - log_plan.amax(1, keepdim=True)).argmax(0)  # [A]
    return owner.where(owner < len(log_plan) - 1, -1)


@torch.no_grad()
def transport_assign(
    logits: Tensor,
    boxes: Tensor,
    points: Tensor,
    strides: Tensor,
    gt_boxes: Tensor,
    gt_labels: Tensor,
    *,
    gamma: float,
    alpha: float,
    radius: float,
    iou_weight: float,
    top: int,
    epsilon: float,
    iterations: int,
) -> Tensor:
    """Assign the points of one image.

    Args:
        logits: [A, C].
        boxes: [A, 4] predicted, pixels.
        points: [A, 2] pixels.
        strides: [A] pixels.
        gt_boxes: [G, 4] pixels.
        gt_labels: [G].
        gamma: of the focal loss.
        alpha: of the focal loss.
        radius: see `centre_prior`.
        iou_weight: of -log IoU in the cost.
        top: see `dynamic_k`.
        epsilon: see `sinkhorn`.
        iterations: see `sinkhorn`.

    Returns:
        [A] object of each point, -1 for background
    """
    G, A = len(gt_boxes), len(points)
    if G == 0:
        return torch.full((A,), -1, device=points.device)
    candidate = centre_prior(points, strides, gt_boxes, radius)  # [G, A]
    ious = box_rows_iou(boxes.T.contiguous()[None], gt_boxes)  # [G, A]
    objects, background = classification_costs(logits, gt_labels, gamma, alpha)
    # -log 0 has the value of the authors' code in any type of numbers
    box_cost = -ious.clamp(min=torch.finfo(torch.float32).eps).log()
    objects = objects + iou_weight * box_cost + OUTSIDE * ~candidate
    k = dynamic_k(ious, candidate, top)
    supply = torch.cat([k, (A - k.sum(0, keepdim=True)).clamp(min=0)])  # [G + 1]
    cost = torch.cat([objects, background[None]])  # [G + 1, A]
    return assign_by_plan(sinkhorn(cost, supply, torch.ones_like(background), epsilon, iterations))


@MODELS.register_module()
class OTAHead(FCOSHead):
    """FCOS with a branch for the IoU in place of the centerness, and OTA's assignment.

    The points are at multiples of the stride, without FCOS's half of a stride. A level predicts
    `relu(scale * regression)` strides to the four sides. The number of positives, a mean over GPUs, divides
    all losses; the score is the geometric mean of the class's and the IoU. The IoU's layer has the name that
    mmdet gives the centerness's, `conv_centerness`.

    Boxes are clipped before NMS if `test_cfg.clip` is set, as everywhere in this suite; the authors' code
    clips after it. That code also keeps at most as many pairs of a level as the level has points; here
    `test_cfg.nms_pre` is the only limit.

    Args:
        loss_iou: binary cross entropy of the IoU branch with the IoU of the predicted box.
        train_cfg: `radius`, `iou_weight`, `top`, `epsilon` and `iterations` of `transport_assign`; the focal
            loss in its cost is `loss_cls`.
        others: as mmdet's `FCOSHead`. `norm_on_bbox` and `centerness_on_reg` are set.
    """

    assigns_by_prediction = True
    divisors = Divisors.PREDICTIONS

    def __init__(self, *args: Any, loss_iou: dict, **kwargs: Any) -> None:
        super().__init__(*args, norm_on_bbox=True, centerness_on_reg=True, loss_centerness=loss_iou, **kwargs)
        self.prior_generator = MlvlPointGenerator(self.strides, offset=0.0)

    def loss_by_feat(
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        iou_preds: list[Tensor],
        batch_gt_instances: list[InstanceData],
        batch_img_metas: list[dict],
        batch_gt_instances_ignore: list[InstanceData] | None = None,
    ) -> dict[str, Tensor]:
        """`loss_cls`, `loss_bbox` and `loss_iou` of a batch; ignored objects play no part, as in the code."""
        logits, boxes = self._rows_of_images(cls_scores, bbox_preds)  # [B, A, C], [B, A, 4]
        iou_logits = torch.cat([maps.flatten(1) for maps in iou_preds], 1)  # [B, A]
        gt_index = self._match(cls_scores, bbox_preds, batch_gt_instances)  # [B, A]
        labels, gt_boxes = objects_of_points(batch_gt_instances, gt_index, self.num_classes, boxes)
        positive = (gt_index >= 0).flatten()  # [B*A]
        divisor = reduce_mean(positive.sum().to(boxes)).clamp(min=1)
        # All points go through the losses, because a selection would wait for the device. Boxes without an
        # object are unbounded, and an infinite loss times 0 would be nan.
        boxes = boxes.flatten(0, 1).where(positive[:, None], gt_boxes)
        return {
            "loss_cls": self.loss_cls(logits.flatten(0, 1), labels, avg_factor=divisor),
            **self._box_losses(boxes, gt_boxes, iou_logits.flatten(), positive, divisor),
        }

    def _box_losses(
        self, boxes: Tensor, gt_boxes: Tensor, iou_logits: Tensor, weights: Tensor, divisor: Tensor
    ) -> dict[str, Tensor]:
        """`loss_bbox` and `loss_iou` of boxes [P, 4] and [P, 4], and logits [P] of their IoU; weights [P]."""
        ious = paired_iou(boxes.detach(), gt_boxes)  # [P]
        # mmdet's loss of no box has no graph
        of_boxes = self.loss_bbox(boxes, gt_boxes, reduction_override="none") if len(boxes) else boxes.sum(1)
        of_ious = self.loss_centerness(iou_logits, ious, reduction_override="none")  # [P]
        return {
            "loss_bbox": weight_reduce_loss(of_boxes, weights, avg_factor=divisor),
            "loss_iou": weight_reduce_loss(of_ious, weights, avg_factor=divisor),
        }

    @torch.no_grad()
    def positives_by_feat(
        self, *outs: list[Tensor], batch_gt_instances: list[InstanceData], batch_img_metas: list[dict]
    ) -> list[Positives]:
        """As in the loss; see `DensePredictionMixin`."""
        cls_scores, bbox_preds, _ = outs
        return [of_assignment(image) for image in self._match(cls_scores, bbox_preds, batch_gt_instances)]

    def _rows_of_images(self, cls_scores: list[Tensor], bbox_preds: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Logits [B, A, C] and boxes [B, A, 4], pixels, of all points."""
        strides = [stride if self.training else 1 for stride in self.strides]  # see FCOSHead._dense_level
        logits = torch.cat([maps.flatten(2) for maps in cls_scores], 2).transpose(1, 2)
        distances = torch.cat(
            [maps.flatten(2) * stride for maps, stride in zip(bbox_preds, strides, strict=True)], 2
        ).transpose(1, 2)
        return logits, distance2bbox(torch.cat(self._priors((bbox_preds,))), distances)

    @torch.no_grad()
    def _match(
        self, cls_scores: list[Tensor], bbox_preds: list[Tensor], batch_gt_instances: list[InstanceData]
    ) -> Tensor:
        """[B, A] object of each point of each image, -1 for background."""
        logits, boxes = self._rows_of_images(cls_scores, bbox_preds)
        priors = self._priors((bbox_preds,))
        strides = [
            points.new_full((len(points),), stride)
            for points, stride in zip(priors, self.strides, strict=True)
        ]
        cfg = self.train_cfg
        return torch.stack(
            [
                transport_assign(
                    logits[b].to(boxes),
                    boxes[b],
                    torch.cat(priors),
                    torch.cat(strides),
                    gt.bboxes.to(boxes),
                    gt.labels,
                    gamma=self.loss_cls.gamma,
                    alpha=self.loss_cls.alpha,
                    radius=cfg["radius"],
                    iou_weight=cfg["iou_weight"],
                    top=cfg["top"],
                    epsilon=cfg["epsilon"],
                    iterations=cfg["iterations"],
                )
                for b, gt in enumerate(batch_gt_instances)
            ]
        )

    def _dense_level(self, level: int, outs: tuple[Tensor, ...], priors: Tensor) -> DenseLevel:
        dense = super()._dense_level(level, outs, priors)
        scores = dense.confidence.sqrt()  # [H*W, C] of the product of the class's score and the IoU
        return dense._replace(scores=scores, confidence=scores)
