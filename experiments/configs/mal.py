"""RetinaNet + MAL: FreeAnchor with the constants of the released `mal_R-50-FPN.yaml`, and depression.

Backbone, optimiser and input are FreeAnchor's of this suite, so that the two differ by the scheme alone.
The released code trains a Caffe backbone with twice the rate and no decay for biases.
"""

_base_ = "freeanchor.py"

model = dict(
    bbox_head=dict(
        type="tood.MALHead",
        pre_anchor_topk=40,
        init_cfg=dict(
            type="Normal",
            layer="Conv2d",
            std=0.01,
            override=dict(type="Normal", name="retina_cls", std=0.01, bias_prob=0.02),
        ),
    )
)
