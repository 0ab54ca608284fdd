"""No vocabulary pruning: every token keeps its embedding.

Source: Devlin et al. (2019), https://arxiv.org/abs/1810.04805
"""

from torch import nn


def none(model: nn.Module) -> nn.Module:
    """The model as it is."""
    return model
