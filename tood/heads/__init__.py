"""Dense heads: they wire the pure functions of this package and adapt them to mmdet."""

from tood.box_codecs import PointBBoxCoder
from tood.detectors import TOOD
from tood.heads.atss_head import ATSSHead
from tood.heads.parallel_head import ParallelHead, ParallelTALHead
from tood.heads.t_head import THead
from tood.heads.tood_head import TOODHead
from tood.layers import ModulatedDeformConv2d
from tood.losses import FocalLoss

__all__ = [
    "TOOD",
    "ATSSHead",
    "FocalLoss",
    "ModulatedDeformConv2d",
    "ParallelHead",
    "ParallelTALHead",
    "PointBBoxCoder",
    "THead",
    "TOODHead",
]
