"""ATSS with deformable ResNet-101, trained as by its authors: their `atss_dcnv2_R_101_FPN_2x`.

DCNv2 in stages 3 to 5 and in the last layer of both towers.
"""

_base_ = "atss_r101.py"

model = dict(
    backbone=dict(
        dcn=dict(type="tood.ModulatedDeformConv2d", deform_groups=1, fallback_on_stride=False),
        stage_with_dcn=(False, True, True, True),
    ),
    bbox_head=dict(dcn_on_last_conv=True),
)
