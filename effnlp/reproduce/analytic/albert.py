"""ALBERT: parameters and FLOPs of encoders that share weights over their layers and factorise their embeddings.

Source: Lan et al. (2020), https://arxiv.org/abs/1909.11942
"""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from effnlp.menu import suggest
from effnlp.reproduce.analytic.encoders import GIGA, MEGA, count, forward_flops, on_meta, shape

if TYPE_CHECKING:
    from torch import nn

SHARED_PARTS = {
    "all": (),
    "none": (),
    "attention": ("attention",),
    "feedforward": ("ffn", "ffn_output"),
}
"""What layers may share, to the parts of an ALBERT layer that are then one. All is one group of layers."""


def encoder(of: str, sharing: str = "all", embedding_width: int | None = None) -> "nn.Module":
    """An ALBERT on the meta device.

    Args:
        of: A name of :data:`effnlp.reproduce.analytic.encoders.SHAPES`.
        sharing: A name of :data:`SHARED_PARTS`.
        embedding_width: E; None is that of the shape. Where it is H, nothing projects from E to H.

    Raises:
        ValueError: If a name is unknown.
    """
    from torch import nn

    if sharing not in SHARED_PARTS:
        raise ValueError(
            f"sharing must be one of {', '.join(SHARED_PARTS)}{suggest(sharing, [*SHARED_PARTS])}"
        )
    wanted = shape(of)
    wanted = dataclasses.replace(wanted, embedding_width=embedding_width or wanted.embedding_width)
    model: Any = on_meta(wanted, groups=1 if sharing == "all" else wanted.depth)
    if wanted.embedding_width == wanted.width:
        model.encoder.embedding_hidden_mapping_in = nn.Identity()
    layers = [group.albert_layers[0] for group in model.encoder.albert_layer_groups]
    for layer in layers[1:]:
        for part in SHARED_PARTS[sharing]:
            setattr(layer, part, getattr(layers[0], part))
    return model


def built(of: str, **keys: Any) -> "nn.Module":
    """An encoder of any family on the meta device; ``keys`` are those of :func:`encoder`, for ALBERT alone."""
    return encoder(of, **keys) if shape(of).family == "albert" else on_meta(shape(of), **keys)


def parameters(models: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Millions of parameters, each shared one once: a table of one column.

    Args:
        models: Row to the arguments of :func:`built`.
    """
    return {row: {"parameters": count(built(**keys).parameters()) / MEGA} for row, keys in models.items()}


def forward(models: Mapping[str, Mapping[str, Any]], tokens: int) -> dict[str, dict[str, float]]:
    """Billions of FLOPs of a forward pass over ``tokens`` tokens: a table of one column.

    Args:
        models: Row to the arguments of :func:`built`.
        tokens: Of the one text.
    """
    return {
        row: {"forward FLOPs": forward_flops(built(**keys), tokens) / GIGA} for row, keys in models.items()
    }
