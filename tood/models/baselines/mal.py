"""MAL (Table 2): FreeAnchor while the strongest locations of the features are weakened.

Paper: Ke et al., "Multiple Anchor Learning for Visual Object Detection", CVPR 2020. Its selection is
FreeAnchor's likelihood over bags of anchors; the adversary is here, as the authors' code has it
(DeLightCMU/MAL, `maskrcnn_benchmark/modeling/detector/retinanet.py`, `IA_feat` and type 5 of
`ratio_function`; `modeling/rpn/retinanetIA.py`). The paper also lets the bags shrink; the code does not.
"""

from torch import Tensor

from tood.models.baselines.freeanchor import FreeAnchorHead
from tood.models.common.registry import MODELS

PARTS = 12  # of the training, each with one ratio


def depression_ratio(progress: float) -> float:
    """Share of locations to depress: 0, .1, .2, .3, .4, .5, and back, over twelve equal parts.

    Args:
        progress: share of the training that is done, in [0, 1].

    Raises:
        ValueError: progress is outside of [0, 1].
    """
    if not 0 <= progress <= 1:
        raise ValueError(f"progress is {progress}; it must be in [0, 1]")
    part = min(int(progress * PARTS), PARTS - 1)
    return min(part, PARTS - 1 - part) / 10


def depression_mask(features: Tensor, ratio: float) -> Tensor:
    """0 at the strongest locations of each image, 1 elsewhere.

    The strength of a location is the sum of its channels, each weighted by its mean over the map.

    Args:
        features: [B, C, H, W].
        ratio: share of the H * W locations to mask, rounded down; fewer where several tie.

    Returns:
        [B, 1, H, W]
    """
    strength = (features * features.mean((2, 3), keepdim=True)).sum(1)  # [B, H, W]
    masked = int(strength[0].numel() * ratio)
    ranked = strength.flatten(1).sort(1, descending=True).values  # [B, H*W]
    threshold = ranked[:, masked, None, None]  # [B, 1, 1]
    return (strength <= threshold).to(features)[:, None]


def depress(features: Tensor, ratio: float) -> Tensor:
    """Quarter the features at the strongest `ratio` of locations; the choice has no gradient."""
    mask = depression_mask(features.detach(), ratio)
    return (3 * features * mask + features) / 4


@MODELS.register_module()
class MALHead(FreeAnchorHead):
    """FreeAnchor's selection against a depression of the strongest features; same configuration.

    The training loop calls `set_progress`. In testing nothing is depressed.
    """

    progress: float | None = None

    def set_progress(self, epoch: int, progress: float) -> None:
        """The progress of the training decides the ratio of the depression."""
        self.progress = progress

    def forward(self, feats: tuple[Tensor, ...]) -> tuple[list[Tensor], list[Tensor]]:
        """Logits and deltas of each level.

        Args:
            feats: levels of [B, in_channels, H, W].

        Raises:
            RuntimeError: in training, if the progress was never set.
        """
        if self.training:
            if self.progress is None:
                raise RuntimeError("the head does not know the training's progress: call set_progress")
            ratio = depression_ratio(self.progress)
            feats = tuple(depress(x, ratio) for x in feats)
        return super().forward(feats)
