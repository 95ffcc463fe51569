"""Networks and losses. Nothing here imports another room of `tood`.

Importing this package registers what configurations name as `tood.NAME`.
"""

from tood.models.baselines.atss import ATSSHead
from tood.models.baselines.atss_qfl import ATSSQFLHead
from tood.models.baselines.fcos import FCOSHead, SmoothedGIoULoss
from tood.models.baselines.foveabox import FoveaHead
from tood.models.baselines.freeanchor import FreeAnchorHead
from tood.models.baselines.gfl import GFLHead
from tood.models.baselines.gflv2 import GFLV2Head
from tood.models.baselines.iqdet import IQDetHead
from tood.models.baselines.mal import MALHead
from tood.models.baselines.noisy_anchor import NoisyAnchorHead, TopNAssigner
from tood.models.baselines.ota import OTAHead
from tood.models.baselines.paa import PAAHead
from tood.models.baselines.paa_released import OwnBestIoUAssigner, PAAReleasedHead
from tood.models.baselines.pisa import PISARetinaHead
from tood.models.baselines.retinanet import RetinaHead
from tood.models.baselines.sapd import SAPDHead
from tood.models.baselines.vfnet import VFNetHead
from tood.models.common.anchor_generators import RoundedAnchorGenerator
from tood.models.common.atss_assigner import ATSSAssigner
from tood.models.common.box_coders import DeltaXYWHBBoxCoder, PointBBoxCoder
from tood.models.common.box_losses import GIoULoss, IoULoss
from tood.models.common.dense_prediction import TorchvisionNMSMixin
from tood.models.common.layers import DeformConv2d, ModulatedDeformConv2d
from tood.models.common.losses import (
    CrossEntropyLoss,
    DistributionFocalLoss,
    FocalLoss,
    QualityFocalLoss,
)
from tood.models.common.preprocessor import DetDataPreprocessor
from tood.models.tood.detector import TOOD
from tood.models.tood.losses import LogDistanceGIoULoss
from tood.models.tood.parallel_head import ParallelHead, ParallelTALHead
from tood.models.tood.plug_in import THeadMixin
from tood.models.tood.t_head import THead
from tood.models.tood.t_head_fcos import THeadFCOS
from tood.models.tood.t_head_foveabox import THeadFovea
from tood.models.tood.tood_head import TOODHead

__all__ = [
    "TOOD",
    "ATSSAssigner",
    "ATSSHead",
    "ATSSQFLHead",
    "CrossEntropyLoss",
    "DeformConv2d",
    "DeltaXYWHBBoxCoder",
    "DetDataPreprocessor",
    "DistributionFocalLoss",
    "FCOSHead",
    "FocalLoss",
    "FoveaHead",
    "FreeAnchorHead",
    "GFLHead",
    "GFLV2Head",
    "GIoULoss",
    "IQDetHead",
    "IoULoss",
    "LogDistanceGIoULoss",
    "MALHead",
    "ModulatedDeformConv2d",
    "NoisyAnchorHead",
    "OTAHead",
    "OwnBestIoUAssigner",
    "PAAHead",
    "PAAReleasedHead",
    "PISARetinaHead",
    "ParallelHead",
    "ParallelTALHead",
    "PointBBoxCoder",
    "QualityFocalLoss",
    "RetinaHead",
    "RoundedAnchorGenerator",
    "SAPDHead",
    "SmoothedGIoULoss",
    "THead",
    "THeadFCOS",
    "THeadFovea",
    "THeadMixin",
    "TOODHead",
    "TopNAssigner",
    "TorchvisionNMSMixin",
    "VFNetHead",
]
