"""What the code of FCOS, ATSS and PAA does to the two towers of a head, for heads of mmdet."""

from collections.abc import Sequence

import torch
from mmcv.cnn import ConvModule
from mmengine.model import normal_init
from torch import nn

from tood.models.common.layers import ModulatedDeformConv2d


def add_biases(tower: Sequence[ConvModule]) -> None:
    """Give each convolution of a tower a bias, zero at first, if it has none.

    Args:
        tower: layers, which have no bias in mmcv where they have a normalisation.
    """
    for layer in tower:
        if layer.conv.bias is None:
            layer.conv.bias = nn.Parameter(torch.zeros(layer.conv.out_channels))


def deform_last(tower: Sequence[ConvModule]) -> None:
    """Make the last convolution of a tower a `ModulatedDeformConv2d` of one deform group.

    Names, and so checkpoints, are those of mmdet's heads with `dcn_on_last_conv`, which name mmcv's compiled
    layer themselves, whatever `conv_cfg` says.

    Args:
        tower: layers; normalisation and activation stay, and so does whether there is a bias.
    """
    conv = tower[-1].conv
    tower[-1].conv = ModulatedDeformConv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        padding=conv.padding,
        bias=conv.bias is not None,
    )


class TowersMixin:
    """Put before a head of mmdet with `cls_convs` and `reg_convs`; it finishes these towers.

    The initial weights are those of the authors' code (tianzhi0549/FCOS, sfzhang15/ATSS and kkhoot/PAA:
    `fcos.py`, `atss.py`, `paa.py`, `layers/misc.py`): it draws ordinary convolutions from N(0, 0.01), and
    the convolution that predicts the offsets is one. The weights of the deformable convolution itself stay
    uniform. mmdet sets the offsets to zero.

    The head sets both options before it builds its layers.
    """

    conv_bias: bool | str  # True: convolutions have a bias beside their normalisation
    dcn_on_last_conv: bool  # the last layer of both towers is a `ModulatedDeformConv2d`
    # Of the head
    cls_convs: Sequence[ConvModule]
    reg_convs: Sequence[ConvModule]

    def _init_layers(self) -> None:
        super()._init_layers()  # type: ignore[misc]  # of the head that this is put before
        for tower in (self.cls_convs, self.reg_convs):
            if self.conv_bias is True:
                add_biases(tower)
            if self.dcn_on_last_conv:
                deform_last(tower)

    def init_weights(self) -> None:
        """Draw the weights as the head of mmdet, and those of offsets too."""
        super().init_weights()  # type: ignore[misc]
        if self.dcn_on_last_conv:
            for tower in (self.cls_convs, self.reg_convs):
                normal_init(tower[-1].conv.conv_offset, std=0.01)
