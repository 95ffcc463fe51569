"""Parallel head + ATSS, anchor-free: the ATSS repository's regression from a point, which mmdet lacks."""

_base_ = "atss.py"

model = dict(
    bbox_head=dict(
        bbox_coder=dict(_delete_=True, type="tood.PointBBoxCoder"),
        # The distances pass a relu, so they start well above zero: 4 strides, as in that repository.
        init_cfg=dict(
            type="Normal",
            layer="Conv2d",
            std=0.01,
            override=[
                dict(type="Normal", name="atss_cls", std=0.01, bias_prob=0.01),
                dict(type="Normal", name="atss_reg", std=0.01, bias=4),
            ],
        ),
    )
)
