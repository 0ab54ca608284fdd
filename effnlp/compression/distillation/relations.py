"""How the tokens of a text are related: attention scores head by head, and the distance of such relations.

Source: Vaswani et al. (2017), https://arxiv.org/abs/1706.03762

Legend: B batch, T tokens, H heads, K heads of the keys, E width of a head.
"""

import math
from typing import Any

import torch
from torch import Tensor

from effnlp.compression.distillation.trace import head_count
from effnlp.model.heads import split_heads


def attention_scores(queries: Tensor, keys: Tensor, heads: int) -> Tensor:
    """(B, H, T, T) the scores before the softmax.

    What a family adds to them (positions, relative biases) is not in them.

    Args:
        queries: (B, T, H · E).
        keys: (B, T, K · E): K heads, each read by H / K heads of the queries.
        heads: H.
    """
    of_queries = split_heads(queries, heads)  # (B, H, T, E)
    width = of_queries.shape[-1]
    of_keys = split_heads(keys, keys.shape[-1] // width)  # (B, K, T, E)
    of_keys = of_keys.repeat_interleave(heads // of_keys.shape[1], dim=1)  # (B, H, T, E)
    return of_queries @ of_keys.transpose(-1, -2) / math.sqrt(width)


def log_relations(scores: Tensor, mask: Tensor, is_causal: bool = False) -> Tensor:
    """(B, H, T, T) logarithms of a softmax of ``scores`` over the tokens of the text.

    Args:
        scores: (B, H, T, T).
        mask: (B, T), 1 for tokens.
        is_causal: Whether a token is related to none that follows it.
    """
    unread = mask[:, None, None, :] == 0  # (B, 1, 1, T)
    if is_causal:
        unread = unread | torch.ones_like(scores[0, 0], dtype=torch.bool).triu(1)  # (B, 1, T, T)
    return scores.masked_fill(unread, torch.finfo(scores.dtype).min).log_softmax(-1)


def relation_loss(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """The mean divergence of log-relations (B, H, T, T), teacher from student: a scalar, 0 where they agree.

    The mean is over the tokens of a text, then over the heads and the texts.
    """
    divergence = (teacher.exp() * (teacher - student)).sum(-1).mean(1)  # (B, T)
    weights = mask.to(divergence.dtype)  # (B, T)
    return ((divergence * weights).sum(1) / weights.sum(1).clamp_min(1)).mean()


def equal_directions(student: Any, teacher: Any) -> bool:
    """Whether no token of either encoder reads one that follows it.

    Raises:
        ValueError: If that is so of one alone.
    """
    causal = [reads_backwards(student), reads_backwards(teacher)]
    if causal[0] != causal[1]:
        reads = {True: "from left to right", False: "in both directions"}
        raise ValueError(
            f"attention is compared token by token: the student reads {reads[causal[0]]}, the teacher "
            f"{reads[causal[1]]}; attention_weight=0 leaves it out"
        )
    return causal[0]


def reads_backwards(encoder: Any) -> bool:
    """Whether no token reads one that follows it."""
    if getattr(encoder, "model", None) is not None:
        return bool(getattr(encoder, "is_causal", False))
    return any(bool(getattr(module, "causal", False)) for module in encoder.modules())


def equal_heads(student: Any, teacher: Any) -> int:
    """H, of both encoders.

    Raises:
        ValueError: If they have different numbers, or it is not known of one.
    """
    heads = [head_count(student), head_count(teacher)]
    if heads[0] != heads[1]:
        raise ValueError(
            f"attention scores are compared head by head: the student has {heads[0]}, the teacher {heads[1]}; "
            "attention_weight=0 leaves them out, compression/distillation=minilm takes any number"
        )
    return heads[0]
