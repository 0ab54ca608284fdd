"""What parameter-efficient methods share: everything is frozen but the head and what a method frees."""

from collections.abc import Iterable
from typing import Any

from torch import nn

NORM_NAMES = ("LayerNorm", "RMSNorm")
"""How the classes of norms that libraries bring themselves end: T5LayerNorm, LlamaRMSNorm."""


def freeze_all_but_head(model: nn.Module) -> None:
    """Leave only the parameters of ``model.head`` trainable; a method then frees or adds its own.

    A head that came with its weights (``is_pretrained``) is frozen with the encoder, whose embeddings it may share.
    """
    model.requires_grad_(False)
    model.head.requires_grad_(not getattr(model.head, "is_pretrained", False))


def thaw(parameters: Iterable[nn.Parameter], learning_rate_factor: float) -> None:
    """Train ``parameters`` at a rate that replaces the factor that the model gave them."""
    each: Any
    for each in parameters:
        each.requires_grad_(True)
        each.learning_rate_factor = learning_rate_factor


def check_factor(learning_rate_factor: float) -> float:
    """The factor itself.

    Raises:
        ValueError: If it is not positive.
    """
    if learning_rate_factor <= 0:
        raise ValueError(f"learning_rate_factor must be above 0, got {learning_rate_factor}")
    return learning_rate_factor


def is_norm(module: nn.Module) -> bool:
    """Whether it is a norm with a gain: torch's, or one that a library calls ``…LayerNorm`` or ``…RMSNorm``."""
    named = isinstance(module, nn.LayerNorm | nn.RMSNorm) or type(module).__name__.endswith(NORM_NAMES)
    return named and getattr(module, "weight", None) is not None
