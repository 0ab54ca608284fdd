"""No pruning: every weight stays.

Source: Han et al. (2015), https://arxiv.org/abs/1506.02626
"""

from torch import nn


def none(model: nn.Module) -> nn.Module:
    """The model as it is."""
    return model
