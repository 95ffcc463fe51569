"""TOOD: Task-aligned One-stage Object Detection, its compared methods and their analysis.

Nothing here knows of Snakemake. Modules that touch torch are imported where they are needed, so that
reading the experiment declarations costs no torch import. Importing any of it lets mmdet be imported where
mmcv has no compiled operators.
"""

from tood.runtime.mmcv_operators import stand_in

stand_in()
