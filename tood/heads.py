"""Dense heads, losses and layers of this suite by their short import: all of `tood.models`."""

from tood.models import *  # noqa: F403
from tood.models import __all__  # noqa: F401
