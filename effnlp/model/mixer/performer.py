"""Attention in linear time by positive orthogonal random features (FAVOR+).

Source: Choromanski et al. (2021), https://arxiv.org/abs/2009.14794

Legend: B batch, T tokens, D width, H heads, E width of a head, M random features.
"""

import math

import torch
from torch import Tensor, nn

from effnlp.model.heads import check_heads, merge_heads, split_heads

REQUIRES = {"build": ("both_directions",)}
PROVIDES = {"build": ("attention_heads", "all_heads")}

EPSILON = 1e-6


def orthogonal_features(count: int, width: int, generator: torch.Generator | None = None) -> Tensor:
    """Random directions (``count``, ``width``): each one N(0, I), orthogonal in blocks of ``width``.

    Args:
        count: M.
        width: E.
        generator: Where the randomness comes from; torch's global generator if there is none.

    Raises:
        ValueError: If ``count`` is below 1.
    """
    if count < 1:
        raise ValueError(f"features must be at least 1, got {count}")
    blocks = -(-count // width)
    basis, triangle = torch.linalg.qr(torch.randn(blocks, width, width, generator=generator))
    # With these signs the basis is uniform over all rotations, not biased by the decomposition.
    basis = basis * triangle.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)  # (blocks, E, E)
    directions = basis.transpose(-2, -1).reshape(-1, width)[:count]  # (M, E)
    lengths = torch.randn(count, width, generator=generator).norm(dim=1, keepdim=True)  # (M, 1)
    return directions * lengths


def log_features(inputs: Tensor, directions: Tensor) -> Tensor:
    """Logarithm of the positive features phi of lemma 1, but for the factor 1/sqrt(M).

    The mean over M of exp(log phi(q) + log phi(k)) estimates exp(q·k) without bias.

    Args:
        inputs: (…, E), already divided by E to the power of a quarter where they are queries and keys.
        directions: (M, E).

    Returns:
        (…, M).
    """
    return inputs @ directions.T - inputs.square().sum(-1, keepdim=True) / 2


def linear_attention(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Each query's mean of the values with weights ``queries · keys``, without the matrix of weights.

    Args:
        queries: Features (…, T, M), not negative.
        keys: Features (…, S, M), not negative; zero for what is not to be read.
        values: (…, S, E).

    Returns:
        (…, T, E).
    """
    summary = keys.transpose(-2, -1) @ values  # (…, M, E)
    total = queries @ keys.sum(-2).unsqueeze(-1)  # (…, T, 1)
    return queries @ summary / total


def causal_linear_attention(queries: Tensor, keys: Tensor, values: Tensor, chunk: int = 64) -> Tensor:
    """As :func:`linear_attention`, but token t reads the tokens up to t only: prefix sums over chunks.

    Args:
        queries: Features (…, T, M), not negative.
        keys: Features (…, T, M), not negative. A factor common to all of them cancels, but it must not be
            made of what follows t.
        values: (…, T, E).
        chunk: Tokens that are done at once. Memory and work grow with T · chunk.

    Returns:
        (…, T, E).
    """
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1, got {chunk}")
    # The total is the sum of one more value, which is always 1.
    values = torch.cat([values, values.new_ones(*values.shape[:-1], 1)], dim=-1)  # (…, T, E + 1)
    prefix = queries.new_zeros(*queries.shape[:-2], queries.shape[-1], values.shape[-1])  # (…, M, E + 1)
    outputs = []
    for start in range(0, queries.shape[-2], chunk):
        q, k, v = (x[..., start : start + chunk, :] for x in (queries, keys, values))
        outputs.append(q @ prefix + (q @ k.transpose(-2, -1)).tril() @ v)  # (…, chunk, E + 1)
        prefix = prefix + k.transpose(-2, -1) @ v
    output = torch.cat(outputs, dim=-2)  # (…, T, E + 1)
    return output[..., :-1] / output[..., -1:]


class Performer(nn.Module):
    """Bidirectional FAVOR+ in place of softmax attention.

    Unlike the paper, the random features are drawn once and not again during training, so that a saved
    model gives the same outputs.

    Args:
        width: D.
        heads: H, a divisor of D.
        features: M. Time grows with T · M, so it pays where texts are longer than M tokens.
    """

    directions: Tensor

    def __init__(self, width: int, heads: int, features: int = 64) -> None:
        super().__init__()
        self.heads = check_heads(width, heads)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)
        self.register_buffer("directions", orthogonal_features(features, width // heads))

    def linear_roles(self) -> dict[str, str]:
        """Role to the name of the module in that role."""
        return {"query": "query", "key": "key", "value": "value", "attention_output": "output"}

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """``hidden`` (B, T, D) and ``mask`` (B, T), 1 for tokens, to (B, T, D)."""
        queries, keys = self._log_features(self.query(hidden)), self._log_features(self.key(hidden))
        values = split_heads(self.value(hidden), self.heads)  # (B, H, T, E)
        padding = ~mask.bool()[:, None, :, None]  # (B, 1, T, 1)
        keys = keys.masked_fill(padding, -math.inf)  # (B, H, T, M)
        # What is subtracted cancels in the ratio and keeps exp within range: one number for each query,
        # one for all keys of a text and head. Epsilon keeps the ratio defined when all weights underflow.
        queries = (queries - queries.amax(-1, keepdim=True).detach()).exp() + EPSILON
        keys = (keys - keys.amax((-2, -1), keepdim=True).detach()).exp() + EPSILON
        keys = keys.masked_fill(padding, 0.0)
        return self.output(merge_heads(linear_attention(queries, keys, values)))

    def _log_features(self, hidden: Tensor) -> Tensor:
        """(B, T, D) to (B, H, T, M)."""
        inputs = split_heads(hidden, self.heads)  # (B, H, T, E)
        return log_features(inputs * inputs.shape[-1] ** -0.25, self.directions)
