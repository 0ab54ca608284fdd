"""No PEFT: fine-tune every weight of the model.

Source: Devlin et al. (2019), https://arxiv.org/abs/1810.04805
"""

from torch import nn

REQUIRES = {"prepare": ("trainable_weights",)}


def none(model: nn.Module) -> nn.Module:
    """The model as it is."""
    return model
