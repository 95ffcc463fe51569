"""SGD as the recipes set it: rates and weight decays that differ between kinds of parameters."""

import torch
from mmengine.config import ConfigDict
from mmengine.optim import build_optim_wrapper
from torch import nn


def build_optimizer(model: nn.Module, train_cfg: ConfigDict) -> torch.optim.Optimizer:
    """SGD; a run may set the learning rate of biases apart, and the weight decay of these and of norms.

    Parameters of equal settings are in one group. A GPU updates a group in one launch or a few.
    """
    multipliers = ("bias_lr_mult", "bias_decay_mult", "norm_decay_mult")
    per_parameter: dict = {name: train_cfg[name] for name in multipliers}
    # Biases of offsets do not count, as mmengine has it for the deformable layers of mmcv.
    offsets: dict = dict(custom_keys=dict(conv_offset={}))
    wrapper = dict(
        optimizer=dict(
            type="SGD",
            lr=train_cfg.lr,
            momentum=train_cfg.momentum,
            weight_decay=train_cfg.weight_decay,
            fused=True,
        ),
        paramwise_cfg=per_parameter | offsets if set(per_parameter.values()) != {1.0} else None,
    )
    optimizer = build_optim_wrapper(model, wrapper).optimizer
    groups: dict[str, dict] = {}
    for group in optimizer.param_groups:  # mmengine's have one parameter each where settings differ
        settings = repr({name: value for name, value in group.items() if name != "params"})
        groups.setdefault(settings, group | {"params": []})["params"] += group["params"]
    for group in groups.values():
        group["lr_multiplier"] = group["lr"] / train_cfg.lr
    optimizer.param_groups[:] = groups.values()
    return optimizer


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give each group of `build_optimizer` its multiple of the rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_multiplier"]
