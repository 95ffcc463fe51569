"""IQDet with ResNet-50: a reconstruction on OTA's head and recipe. `docs/iqdet.md` says what was chosen.

From the paper, at second hand: two Gaussians, 12 positions per object, the weight 1 of the encoder's loss,
NMS .6. Chosen: the width of the encoder, as in a box head with two hidden layers.
"""

_base_ = "ota.py"

model = dict(
    bbox_head=dict(type="tood.IQDetHead", gaussians=2, quality_channels=1024, quality_weight=1.0),
    train_cfg=dict(_delete_=True, samples=12),
)
