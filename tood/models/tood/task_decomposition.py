"""Task decomposition by layer attention: equations 2 to 4 of the paper."""

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmengine.model import normal_init
from torch import Tensor, nn

# The released code divides the C * N concatenated channels by 8 * N for the hidden layer of Eq. 3.
# The paper gives no size.
ATTENTION_REDUCTION = 8


class TaskDecomposition(nn.Module):
    """Task-specific features from the stack of task-interactive ones, for one task.

    The attention of Eq. 3 multiplies the weights of Eq. 4's 1x1 convolution instead of the features
    (Eq. 2): the same product with H * W times fewer multiplications.

    Args:
        channels: C, channels of each interactive layer and of the result.
        layers: N, interactive layers.
        norm_cfg: mmcv normalisation of the reduction convolution; None gives it a bias instead.
    """

    def __init__(self, channels: int, layers: int, norm_cfg: dict | None) -> None:
        super().__init__()
        hidden = channels // ATTENTION_REDUCTION
        self.attention = nn.Sequential(
            nn.Conv2d(channels * layers, hidden, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, layers, 1),
            nn.Sigmoid(),
        )
        self.reduction = ConvModule(channels * layers, channels, 1, norm_cfg=norm_cfg)

    def init_weights(self) -> None:
        """Draw the weights as the released code does."""
        normal_init(self.attention[0], std=0.001)
        normal_init(self.attention[2], std=0.001)
        normal_init(self.reduction.conv, std=0.01)

    def forward(self, inter: Tensor, pooled: Tensor | None = None) -> Tensor:
        """Task-specific features, relu(conv_1(X^task)) of Eq. 4.

        The T-head calls `kernel` and `finish` instead, with all products of X^inter as one between them.

        Args:
            inter: X^inter, [B, N * C, H, W].
            pooled: its average over H and W, [B, N * C, 1, 1]; computed here if not given.

        Returns:
            [B, C, H, W]
        """
        if pooled is None:
            pooled = F.adaptive_avg_pool2d(inter, 1)
        task = torch.bmm(self.kernel(pooled), inter.flatten(2))  # [B, C, H*W]
        return self.finish(task.unflatten(2, inter.shape[2:]))

    def kernel(self, pooled: Tensor) -> Tensor:
        """Weights that make task-specific features of interactive ones, before norm: [B, C, N * C].

        Args:
            pooled: X^inter averaged over H and W, [B, N * C, 1, 1].
        """
        w = self.attention(pooled)  # [B, N, 1, 1]
        B, N = w.shape[:2]
        weight = self.reduction.conv.weight  # [C, N * C, 1, 1]
        C = len(weight)
        return (w.view(B, 1, N, 1) * weight.view(1, C, N, -1)).flatten(2)

    def finish(self, task: Tensor) -> Tensor:
        """What follows the product of kernel and features: bias, norm and relu of [B, C, H, W]."""
        bias = self.reduction.conv.bias
        if bias is not None:
            task = task + bias.view(1, -1, 1, 1)
        if self.reduction.with_norm:
            task = self.reduction.norm(task)
        return self.reduction.activate(task)
