"""Which token comes next: pure functions of its logits.

Sources: top-k of Fan et al. (2018), https://arxiv.org/abs/1805.04833; top-p (nucleus) of Holtzman et al. (2020),
https://arxiv.org/abs/1904.09751

Legend: B texts, V vocabulary.
"""

import numpy as np
import torch
from torch import Tensor


def distribution(
    scores: Tensor, temperature: float = 1.0, top_k: int | None = None, top_p: float = 1.0
) -> Tensor:
    """Probabilities to draw from: of the softmax, what ``top_k`` and then ``top_p`` leave, made to sum to 1.

    Of tokens with equal scores at the border those with the smaller ids stay.

    Args:
        scores: Logits (B, V).
        temperature: Divides them, above 0.
        top_k: How many of the likeliest tokens stay; None: all.
        top_p: The fewest of the likeliest stay whose probabilities, after ``top_k``, reach this sum; in (0, 1].

    Returns:
        (B, V) float64.
    """
    probabilities = (scores.double() / temperature).softmax(-1)
    if top_k is None and top_p == 1:
        return probabilities
    ordered, ids = probabilities.sort(descending=True, stable=True)  # (B, V)
    if top_k is not None:
        ordered[:, top_k:] = 0
    ordered = ordered / ordered.sum(-1, keepdim=True)
    if top_p < 1:
        before = ordered.cumsum(-1) - ordered  # what the likelier ones have together
        ordered = ordered.masked_fill(before >= top_p, 0)
        ordered = ordered / ordered.sum(-1, keepdim=True)
    return torch.zeros_like(ordered).scatter(-1, ids, ordered)


def draw(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """The token at which the sum of the probabilities up to it exceeds a number in [0, 1): (B,) int64.

    Args:
        probabilities: (B, V), rows sum to about 1.
        uniforms: (B,) one number for each text.
    """
    sums = probabilities.cumsum(-1)  # (B, V)
    # Scaled by the sum, so that rounding never leads past the last token that has a probability.
    reached = uniforms.to(sums).unsqueeze(-1) * sums[:, -1:]
    return torch.searchsorted(sums, reached, right=True).squeeze(-1)


def uniforms(seed: int, text: int, count: int) -> Tensor:
    """(``count``,) float64 in [0, 1): the draws of text number ``text``, whatever other texts there are."""
    return torch.from_numpy(np.random.default_rng([seed, text]).random(count))
