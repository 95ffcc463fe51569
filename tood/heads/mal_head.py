"""FreeAnchor with depressed features: MAL (Table 2); the depression itself is `tood.anchor_depression`."""

from torch import Tensor

from tood.anchor_depression import depress, depression_ratio
from tood.heads.retina_head import FreeAnchorHead
from tood.registry import MODELS


@MODELS.register_module()
class MALHead(FreeAnchorHead):
    """FreeAnchor's selection against a depression of the strongest features; configuration as its.

    The training loop tells the head its progress with `set_progress`; in testing nothing is depressed.
    """

    progress: float | None = None

    def set_progress(self, progress: float) -> None:
        """Tell which share of the training is done, in [0, 1]."""
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
