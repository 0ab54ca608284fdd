"""Not elastic: the model has one width and one depth.

Source: Devlin et al. (2019), https://arxiv.org/abs/1810.04805
"""

from torch import nn


def none(model: nn.Module) -> nn.Module:
    """The model as it is."""
    return model
