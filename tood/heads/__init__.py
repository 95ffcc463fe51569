"""Dense heads: they wire the pure functions of this package and adapt them to mmdet."""

from tood.box_codecs import PointBBoxCoder
from tood.detectors import TOOD
from tood.heads.atss_head import ATSSHead, ATSSQFLHead
from tood.heads.dense_prediction import TorchvisionNMSMixin
from tood.heads.fcos_head import FCOSHead, THeadFCOS
from tood.heads.fovea_head import FoveaHead, THeadFovea
from tood.heads.mal_head import MALHead
from tood.heads.noisy_anchor_head import NoisyAnchorHead, TopNAssigner
from tood.heads.paa_head import PAAHead
from tood.heads.parallel_head import ParallelHead, ParallelTALHead
from tood.heads.plug_in import THeadMixin
from tood.heads.retina_head import FreeAnchorHead, PISARetinaHead, RetinaHead
from tood.heads.t_head import THead
from tood.heads.tood_head import TOODHead
from tood.layers import ModulatedDeformConv2d
from tood.losses import FocalLoss, LogDistanceGIoULoss

__all__ = [
    "TOOD",
    "ATSSHead",
    "ATSSQFLHead",
    "FCOSHead",
    "FocalLoss",
    "FoveaHead",
    "FreeAnchorHead",
    "LogDistanceGIoULoss",
    "MALHead",
    "ModulatedDeformConv2d",
    "NoisyAnchorHead",
    "PAAHead",
    "PISARetinaHead",
    "ParallelHead",
    "ParallelTALHead",
    "PointBBoxCoder",
    "RetinaHead",
    "THead",
    "THeadFCOS",
    "THeadFovea",
    "THeadMixin",
    "TOODHead",
    "TopNAssigner",
    "TorchvisionNMSMixin",
]
