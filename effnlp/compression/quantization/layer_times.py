"""What single layers take on this machine, as they are and changed: the costs of a budget of time.

Legend: T tokens of a text, I width in.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from effnlp.evaluation.latency import fastest_turns

TOKENS, TURNS = 64, 9
"""The text that a layer is given, alone, and how often; two more turns warm up."""

Change = Callable[[nn.Module], nn.Module]


def nanoseconds(layers: Mapping[str, Any], changes: Sequence[Change]) -> tuple[list[int], list[list[int]]]:
    """The fastest turn of each layer for a text of 64 tokens, by the threads that there are.

    A layer and its changed forms take turns; layers of one kind and shape are measured once.

    Args:
        layers: Linear layers and tables.
        changes: What makes another layer of one, which stays as it is.

    Returns:
        Of each layer as it is; of each the row of its changed forms.
    """
    known: dict[tuple[Any, ...], list[int]] = {}
    for layer in layers.values():
        kind = kind_of(layer)
        if kind not in known:
            text, forms = text_for(layer), [layer, *(change(layer) for change in changes)]
            seconds = fastest_turns([partial(form, text) for form in forms], TURNS, warmup=2)
            known[kind] = [round(1e9 * value) for value in seconds]
    rows = [known[kind_of(layer)] for layer in layers.values()]
    return [row[0] for row in rows], [row[1:] for row in rows]


def kind_of(layer: Any) -> tuple[Any, ...]:
    """What layers of the same cost have in common."""
    return type(layer), tuple(layer.weight.shape), getattr(layer, "bias", None) is None


def text_for(layer: Any) -> Tensor:
    """What a layer reads of one text: states (1, T, I), or ids (1, T)."""
    dice = torch.Generator().manual_seed(0)
    if isinstance(layer, nn.Linear):
        return torch.randn(1, TOKENS, layer.in_features, generator=dice).to(layer.weight.device)
    return torch.randint(len(layer.weight), (1, TOKENS), generator=dice).to(layer.weight.device)
