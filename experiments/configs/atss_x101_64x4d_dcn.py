"""ATSS with deformable ResNeXt-101-64x4d, trained as by its authors: their `atss_dcnv2_X_101_64x4d_FPN_2x`.

DCNv2 in stages 4 and 5 and in the last layer of both towers; the initial weights of `atss_x101_64x4d.py`.
"""

_base_ = "atss_x101_64x4d.py"

model = dict(
    backbone=dict(
        dcn=dict(type="tood.ModulatedDeformConv2d", deform_groups=1, fallback_on_stride=False),
        stage_with_dcn=(False, False, True, True),
    ),
    bbox_head=dict(dcn_on_last_conv=True),
)
