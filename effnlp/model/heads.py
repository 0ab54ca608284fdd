"""Splitting a width into heads and back, for the mixers that have heads.

Legend: B batch, T tokens, D width, H heads, E = D / H width of a head.
"""

from torch import Tensor


def check_heads(width: int, heads: int) -> int:
    """``heads``, once it is known that it divides ``width``."""
    if heads < 1 or width % heads:
        raise ValueError(f"heads must divide the width {width}, got {heads}")
    return heads


def split_heads(hidden: Tensor, heads: int) -> Tensor:
    """(B, T, D) to (B, H, T, E), a view."""
    return hidden.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge_heads(hidden: Tensor) -> Tensor:
    """(B, H, T, E) to (B, T, D)."""
    return hidden.transpose(1, 2).flatten(2)
