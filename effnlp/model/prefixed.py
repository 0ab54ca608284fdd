"""Attention that reads keys and values put before those of the text: what a trained prefix needs of a model.

A module that computes attention and can read a prefix has the attribute ``prefix``: a module that, called without
arguments, gives keys and values, or None. The encoder names these modules (``prefix_readers``). A prefix has no
position, is read by every token, and reads nothing.

Legend: B batch, T tokens, P tokens of the prefix, H heads of the queries, K heads of the keys (fewer than H where
groups of queries share a key), E width of a head.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import pad


def prepend(rows: Tensor, of_text: Tensor) -> Tensor:
    """Keys or values of a prefix (P, K·E) before those of a batch of texts (B, K, T, E): (B, K, P + T, E)."""
    batch, heads, _, width = of_text.shape
    split = rows.to(of_text.dtype).unflatten(-1, (heads, width)).transpose(0, 1)  # (K, P, E)
    return torch.cat([split.expand(batch, -1, -1, -1), of_text], dim=2)


def read_prefix(
    prefix: nn.Module, keys: Tensor, values: Tensor, mask: Tensor | None, causal: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Keys, values and mask of an attention that reads ``prefix`` before the text.

    Args:
        keys: (B, K, T, E).
        values: (B, K, T, E).
        mask: Of the text, its last dimension T: boolean, true where a token is read, or numbers that are added to
            the scores. None: whatever ``causal`` lets be read.
        causal: Whether, without a mask, a token reads no other that follows it.

    Returns:
        Keys and values (B, K, P + T, E), and a mask whose last dimension is P + T; None where all is read.
    """
    of_prefix_keys, of_prefix_values = prefix()  # (P, K·E) each
    length, tokens = len(of_prefix_keys), keys.shape[2]
    if mask is not None:
        mask = pad(mask, (length, 0), value=mask.dtype == torch.bool)  # read, or nothing added to its score
    elif causal:
        mask = keys.new_ones(tokens, length + tokens, dtype=torch.bool).tril(length)[
            None, None
        ]  # (1, 1, T, P + T)
    return prepend(of_prefix_keys, keys), prepend(of_prefix_values, values), mask
