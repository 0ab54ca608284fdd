"""One vector a text from the states of its tokens.

Each reads the mask alone, so that it is right wherever the padding is.

Legend: B batch, T tokens, D width.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from effnlp.model.classifier import mean_pool


def max_pool(hidden: Tensor, mask: Tensor) -> Tensor:
    """Largest of each component over the tokens: ``hidden`` (B, T, D) and ``mask`` (B, T) to (B, D)."""
    lowest = torch.finfo(hidden.dtype).min
    return hidden.masked_fill(mask.unsqueeze(-1) == 0, lowest).amax(1)  # (B, D)


def first_token(hidden: Tensor, mask: Tensor) -> Tensor:
    """The first token that is none of padding: ``hidden`` (B, T, D) and ``mask`` (B, T) to (B, D)."""
    return _at(hidden, mask.long().argmax(1))  # the first of equal ones


def last_token(hidden: Tensor, mask: Tensor) -> Tensor:
    """The last token that is none of padding: ``hidden`` (B, T, D) and ``mask`` (B, T) to (B, D)."""
    places = torch.arange(mask.shape[1], device=mask.device)  # (T,)
    return _at(hidden, (places * mask).argmax(1))


def _at(hidden: Tensor, index: Tensor) -> Tensor:
    """``hidden`` (B, T, D) at ``index`` (B,) of each text: (B, D)."""
    chosen = index.view(-1, 1, 1).expand(-1, 1, hidden.shape[2])  # (B, 1, D)
    return hidden.gather(1, chosen).squeeze(1)


POOLINGS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mean": mean_pool,
    "cls": first_token,
    "last": last_token,
    "max": max_pool,
}
"""What the key ``pooling`` may be, beside ``auto``."""


def check_pooling(pooling: str) -> None:
    """Refuse what is neither a pooling nor ``auto`` with a ValueError."""
    if pooling not in POOLINGS and pooling != "auto":
        raise ValueError(f"pooling must be one of auto, {', '.join(POOLINGS)}, got {pooling!r}")
