"""No quantization: weights stay in the precision they were trained in.

Source: Micikevicius et al. (2018), https://arxiv.org/abs/1710.03740
"""

from torch import nn


def none(model: nn.Module) -> nn.Module:
    """The model as it is."""
    return model
