"""Hard-concrete gates: random in [0, 1], often exactly 0 or 1 and yet with a gradient, their expected L0 norm closed.

Source: Louizos et al. (2018), https://arxiv.org/abs/1712.01312; ends and temperature are those of Guo et al. (2021),
https://arxiv.org/abs/2012.07463, where none are given

Legend: alpha the location of a gate, l and r the ends to which it is stretched, z its value. Louizos et al. have the
ends -0.1 and 1.1 and the temperature 2/3.
"""

import math

import torch
from torch import Tensor

LOW, HIGH = -1.5, 1.5
"""l and r: a concrete variable in (0, 1) is stretched to (l, r), then clipped to [0, 1], which gives 0 and 1 mass."""

LEAST_NOISE = 1e-6
"""Noise keeps this far from 0 and 1, where its logit is infinite."""


def clipped(concrete: Tensor, low: float = LOW, high: float = HIGH) -> Tensor:
    """A concrete variable in [0, 1], stretched and clipped: z."""
    return (concrete * (high - low) + low).clamp(0, 1)


def noise_like(alpha: Tensor) -> Tensor:
    """Uniform in (0, 1), of the shape of ``alpha``, from torch's global generator."""
    return torch.rand_like(alpha).clamp(LEAST_NOISE, 1 - LEAST_NOISE)


def sampled_gate(
    alpha: Tensor, noise: Tensor, low: float = LOW, high: float = HIGH, temperature: float = 1.0
) -> Tensor:
    """A draw of z for each alpha, with ``noise`` uniform in (0, 1) of the same shape (eq. 10).

    Args:
        temperature: Beta in the paper; the lower, the more of the mass is at the ends.
    """
    logit = torch.log(noise) - torch.log1p(-noise)
    return clipped(torch.sigmoid((logit + alpha) / temperature), low, high)


def certain_gate(alpha: Tensor, low: float = LOW, high: float = HIGH) -> Tensor:
    """z without noise (eq. 13)."""
    return clipped(torch.sigmoid(alpha), low, high)


def open_probability(alpha: Tensor, low: float = LOW, high: float = HIGH, temperature: float = 1.0) -> Tensor:
    """How likely a drawn gate is not zero, in closed form (eq. 12); the sum of it is the expected L0 norm."""
    return torch.sigmoid(alpha - temperature * math.log(-low / high))
