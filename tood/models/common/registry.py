"""The registries through which mmdet configurations reach this package, as `type="tood.Name"`."""

from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import TASK_UTILS as MMENGINE_TASK_UTILS
from mmengine.registry import Registry

_LOCATIONS = ["tood.models"]

MODELS = Registry("model", parent=MMENGINE_MODELS, scope="tood", locations=_LOCATIONS)
TASK_UTILS = Registry("task util", parent=MMENGINE_TASK_UTILS, scope="tood", locations=_LOCATIONS)
