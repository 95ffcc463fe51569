"""Losses that are sums over images divided by sums over images, which can be evaluated in parts."""

from collections.abc import Callable
from typing import NamedTuple

from mmdet.utils import reduce_mean
from mmengine.structures import InstanceData
from torch import Tensor

# From the normalisers of the images at hand to those of the whole batch, by loss
BatchNormalisers = Callable[[dict[str, Tensor]], dict[str, Tensor]]


class LossTerm(NamedTuple):
    """A loss as a sum over images and the sum over images that divides it, both scalars."""

    total: Tensor
    normaliser: Tensor  # without a gradient


def mean_over_processes(normalisers: dict[str, Tensor]) -> dict[str, Tensor]:
    """What mmdet divides by: the mean over GPUs, as the gradients of GPUs are averaged there."""
    return {name: reduce_mean(normaliser) for name, normaliser in normalisers.items()}


class NormalisedLossMixin:
    """For a head whose every loss is a `LossTerm`; its `loss_by_feat` calls `divided`.

    A training that evaluates a batch in parts sets `batch_normalisers`, so that each part is divided by the
    sums of the whole batch.
    """

    loss_names: tuple[str, ...]

    batch_normalisers: BatchNormalisers = staticmethod(mean_over_processes)

    @property
    def has_one_divisor(self) -> bool:
        """Whether all losses have the same divisor at present, so that it can divide the gradient."""
        return False

    def normalisers_from_targets(
        self, outs: tuple[list[Tensor], ...], gts: list[InstanceData], metas: list[dict]
    ) -> dict[str, Tensor] | None:
        """The normalisers of these images; None where they depend on predictions.

        Args:
            outs: what `forward` returned for any image of the batch, for the sizes of its maps.
            gts, metas: of the images.
        """
        return None

    def divisor(self, name: str, normaliser: Tensor) -> Tensor:
        """What the loss of this name is divided by, from the normaliser of the whole batch."""
        raise NotImplementedError

    def divided(self, terms: dict[str, LossTerm]) -> dict[str, Tensor]:
        """The losses."""
        sums = self.batch_normalisers({name: term.normaliser for name, term in terms.items()})
        return {n: t.total / self.divisor(n, sums[n].to(t.total.dtype)) for n, t in terms.items()}
