"""Anchors as Detectron and maskrcnn-benchmark generate them."""

import torch
from mmdet.models.task_modules.prior_generators import AnchorGenerator
from torch import Tensor

from tood.models.common.registry import TASK_UTILS


@TASK_UTILS.register_module()
class RoundedAnchorGenerator(AnchorGenerator):
    """mmdet's generator with the sizes of Detectron and maskrcnn-benchmark (`generate_anchors`).

    There the sides of a ratio are rounded to whole pixels at the size of the stride, before they are scaled:
    44 x 24 for stride 8, size 32 and ratio 0.5, where mmdet has 45.3 x 22.6. `center_offset=0.5` also gives
    their centres. In that code the centre at stride 8 is 3.5, of a box that ends at its last pixel; here a
    box ends one pixel later, and its centre is 4.
    """

    def gen_single_level_base_anchors(
        self,
        base_size: float,
        scales: Tensor,
        ratios: Tensor,
        center: tuple[float, float] | None = None,
    ) -> Tensor:
        """[ratios * scales, 4] anchors of the first cell; arguments as mmdet's."""
        x, y = (self.center_offset * base_size,) * 2 if center is None else center
        widths = (base_size**2 / ratios).sqrt().round()  # [R]
        heights = (widths * ratios).round()
        half = torch.stack([widths, heights], 1)[:, None] * scales[None, :, None] / 2  # [R, S, 2]
        centre = scales.new_tensor([x, y])
        return torch.cat([centre - half, centre + half], 2).flatten(0, 1)
