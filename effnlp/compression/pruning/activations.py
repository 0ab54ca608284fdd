"""What a weight matters by the inputs that it meets: Wanda's score, and inputs for layers that no text reaches.

Source: Sun et al. (2024), https://arxiv.org/abs/2306.11695

Legend: I width in, O width out of a layer.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def wanda_scores(weight: Tensor, squares: Tensor) -> Tensor:
    """``|W_ij| * ||x_j||_2`` (eq. 1).

    Args:
        weight: (O, I).
        squares: (I,) the sum of x_j² over tokens.

    Returns:
        (O, I). Comparisons make sense inside a row.
    """
    return weight.detach().abs() * squares.sqrt().to(weight.dtype)


def with_all(found: Mapping[str, Tensor], layers: Mapping[str, nn.Linear], what: str) -> dict[str, Tensor]:
    """Statistics for every layer: where no text came, those of unit inputs, by which magnitude alone decides.

    Args:
        found: What :func:`effnlp.compression.inputs.input_moments` gave.
        what: ``squares`` or ``outer``.
    """

    def unit(layer: nn.Linear) -> Tensor:
        ones = torch.ones(layer.in_features, dtype=torch.float64, device=layer.weight.device)  # (I,)
        return ones.diag() if what == "outer" else ones

    return {name: found[name] if name in found else unit(layer) for name, layer in layers.items()}
