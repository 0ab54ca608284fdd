"""Magnitude pruning: after training, zero the weights with the smallest absolute value.

Source: Han et al. (2015), https://arxiv.org/abs/1506.02626
"""

import torch
from torch import nn

from effnlp.compression.pruning.mask import check_scope, check_sparsity, keep_masks, sparsity_of
from effnlp.method import note
from effnlp.model.surgery import encoder_layers

REQUIRES = {"finish": ("linear_layers", "float_linear_layers")}


def prune_by_magnitude(model: nn.Module, sparsity: float, scope: str = "layer") -> nn.Module:
    """Zero the smallest weights of the encoder's linear layers, in place, and return ``model``.

    Embeddings, biases, norms and the head are not pruned. Unlike the paper, the rest is not trained again.

    Args:
        sparsity: Fraction of the linear weights set to zero, in [0, 1); counts are exact.
        scope: ``layer``: that fraction of each layer; ``global``: of all layers together.

    Raises:
        ValueError: If a value is outside its range, or the encoder has no linear layer.
    """
    linears = encoder_layers(model, nn.Linear)
    magnitudes = {name: linear.weight.detach().abs() for name, linear in linears.items()}
    masks = keep_masks(magnitudes, sparsity, scope)
    with torch.no_grad():
        for name, linear in linears.items():
            linear.weight.masked_fill_(~masks[name], 0.0)
    note(model, "compression/pruning", sparsity_of([linear.weight for linear in linears.values()]))
    return model


class Magnitude:
    """The choice ``compression/pruning=magnitude``: its values are checked before the model is trained.

    Args:
        sparsity: See :func:`prune_by_magnitude`.
        scope: See :func:`prune_by_magnitude`.

    Raises:
        ValueError: If a value is outside its range.
    """

    def __init__(self, sparsity: float, scope: str = "layer") -> None:
        self.sparsity, self.scope = check_sparsity(sparsity), check_scope(scope)

    def finish(self, model: nn.Module) -> nn.Module:
        """Prune the trained model."""
        return prune_by_magnitude(model, self.sparsity, self.scope)
