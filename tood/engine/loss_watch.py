"""Whether the loss is still finite, without a wait for the GPU at every iteration."""

from collections.abc import Callable

import torch
from torch import Tensor

from tood.runtime.failures import Diverged


class LossWatch:
    """The losses of a training, and the first of them that is not finite.

    To read a loss, the host waits until the device has computed it, and queues no work for it meanwhile. So
    if losses are not read at once, the first loss that is not finite stays on the device until `read`.

    Args:
        at_once: read each loss when it is added, which costs nothing on a CPU.
        describe: describes an iteration in the message.
    """

    def __init__(self, at_once: bool, describe: Callable[[int], str]) -> None:
        self.at_once, self.describe = at_once, describe
        self.last: float | None = None  # loss that was read last
        self._newest: Tensor | None = None
        self._first: Tensor | None = (
            None  # [2] iteration of the first loss that is not finite or -1, that loss
        )

    def add(self, loss: Tensor, iteration: int) -> None:
        """Add the loss of an iteration, a scalar.

        Raises:
            Diverged: losses are read at once, and this one is not finite.
        """
        self._newest = loss = loss.detach().double()
        if self._first is None:
            self._first = torch.full_like(loss, -1).repeat(2)
        now = torch.stack([torch.full_like(loss, iteration), loss])
        self._first = torch.where((self._first[0] < 0) & ~loss.isfinite(), now, self._first)
        if self.at_once:
            self.read()

    def read(self) -> float | None:
        """The loss that was added last, None before the first.

        Raises:
            Diverged: one of the losses is not finite; the message has the iteration of the first such.
        """
        if self._newest is not None and self._first is not None:
            iteration, loss, self.last = torch.cat([self._first, self._newest[None]]).tolist()
            if iteration >= 0:
                where = int(iteration)
                raise Diverged(f"the loss is {loss} at iteration {where} ({self.describe(where)})")
        return self.last
