"""RetinaNet + NoisyAnchor, with the constants of the released `retinanet_R_50_FPN_1x_noisyanchor.yaml`.

Backbone and input are RetinaNet's of this suite. The released code trains Detectron's, with shorter sides of
640 to 800 pixels, 8 images at a rate of .005, which is the rate per image of here.
"""

_base_ = "retinanet.py"

model = dict(
    bbox_head=dict(
        type="tood.NoisyAnchorHead",
        loss_cls=dict(alpha=0.5),
        loss_bbox=dict(_delete_=True, type="SmoothL1Loss", beta=0.1, loss_weight=1.0),
    ),
    train_cfg=dict(
        assigner=dict(_delete_=True, type="tood.TopNAssigner", top_n=30),
        alpha=0.75,  # share of localisation in the cleanliness
        momentum=0.9,
    ),
)
