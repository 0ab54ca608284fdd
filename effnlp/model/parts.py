"""The parts of which an encoder's layers have several, heads and inner units, and how a layer is left with fewer.

A part's groups are what some linear layers give, side by side, and one layer reads: the heads of an attention (given by
query, key and value, read by its output layer), the inner units of a feed-forward layer. With a group gone, these
layers have fewer rows and columns, and compute what they did with the group's values at zero.

Legend: B texts, T tokens, G groups of a part, W width of a group where it is read, I width in, O width out.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from effnlp.model.surgery import encoder_of

HEADS_OF_FAMILIES = frozenset(
    {
        "albert",
        "bart",
        "bert",
        "camembert",
        "distilbert",
        "electra",
        "gpt2",
        "llama",
        "mistral",
        "opt",
        "qwen2",
        "qwen3",
        "roberta",
        "xlm-roberta",
    }
)
"""Families of pretrained models whose layers may have different numbers of heads. In the others, layers share a
bias for each head (MPNet, T5), or the heads are counted where they cannot be reached (DeBERTa)."""

HEAD_WIDTHS = ("attention_head_size", "head_dim")
"""How modules that compute attention call the width of a head."""

HEAD_COUNTS = ("heads", "num_attention_heads", "n_heads", "num_heads", "num_key_value_heads")
"""How they call the number of heads."""

HEADS_WIDTHS = ("all_head_size", "split_size")
"""How they call the width of all heads together."""


@dataclass(frozen=True)
class Part:
    """Groups side by side.

    Attributes:
        reader: Name, inside the encoder, of the layer that reads the groups.
        givers: Names of the layers that give them, to the width of a group there.
        count: G.
        width: W.
        holder: Name of the module that computes attention; None for feed-forward layers.
    """

    reader: str
    givers: Mapping[str, int]
    count: int
    width: int
    holder: str | None = None


def heads_of(model: nn.Module) -> list[Part]:
    """The heads of each layer of the encoder. Heads that share a key and a value are one group.

    Raises:
        ValueError: If there are none, or their number cannot differ from layer to layer.
    """
    encoder: Any = encoder_of(model)
    family = getattr(encoder, "model_type", None)
    if family is not None and family not in HEADS_OF_FAMILIES:
        raise ValueError(
            f"heads of models of type {family!r} cannot be removed: layers share what belongs to each head, or "
            f"count heads out of reach; families whose can: {', '.join(sorted(HEADS_OF_FAMILIES))}"
        )
    roles = encoder.linear_roles()
    names = [roles.get(role, []) for role in ("query", "key", "value", "attention_output")]
    parts = [_heads(encoder, *of_layer) for of_layer in zip(*names, strict=True)]
    if not parts:
        raise ValueError(f"nothing to prune: {type(encoder).__name__} has no attention with linear layers")
    return parts


def _heads(encoder: nn.Module, query: str, key: str, value: str, output: str) -> Part:
    holder, width = _holder(encoder, query)
    count = _out_features(encoder, key) // width  # of the keys: those who share one go together
    givers = {name: _out_features(encoder, name) // count for name in (query, key, value)}
    return Part(output, givers, count, _in_features(encoder, output) // count, holder)


def _holder(encoder: nn.Module, query: str) -> tuple[str, int]:
    """The module around a query layer that knows its heads, and their width."""
    name = query
    while name:
        name = name.rpartition(".")[0]
        module = encoder.get_submodule(name)
        widths = [getattr(module, attribute, None) for attribute in HEAD_WIDTHS]
        if isinstance(heads := getattr(module, "heads", None), int):
            widths.append(_out_features(encoder, query) // heads)
        if found := [width for width in widths if isinstance(width, int)]:
            return name, found[0]
    raise ValueError(f"heads cannot be removed: no module around {query} says how wide a head is")


def units_of(model: nn.Module) -> list[Part]:
    """The inner units of each feed-forward layer of the encoder, gated ones included.

    Raises:
        ValueError: If there are none.
    """
    encoder: Any = encoder_of(model)
    roles = encoder.linear_roles()
    names = [roles.get(role, []) for role in ("feedforward_up", "feedforward_gate", "feedforward_down")]
    ups, gates, downs = names
    of_layers = zip(ups, gates or [None] * len(ups), downs, strict=True)
    parts = [
        Part(down, {name: 1 for name in (up, gate) if name}, _in_features(encoder, down), 1)
        for up, gate, down in of_layers
    ]
    if not parts:
        raise ValueError(f"nothing to prune: {type(encoder).__name__} has no feed-forward layer")
    return parts


def _in_features(encoder: nn.Module, name: str) -> int:
    return int(encoder.get_submodule(name).in_features)  # type: ignore[arg-type]


def _out_features(encoder: nn.Module, name: str) -> int:
    return int(encoder.get_submodule(name).out_features)  # type: ignore[arg-type]


def keep_groups(model: nn.Module, part: Part, kept: Tensor) -> None:
    """Leave a part of the encoder with some of its groups, in place.

    Args:
        kept: Which of the G groups stay, ascending.

    Raises:
        ValueError: If none stays, or a layer is wrapped in something that reads the groups, too.
    """
    if len(kept) == 0:
        raise ValueError(f"{part.reader} must keep at least one group")
    encoder = encoder_of(model)
    for name, width in part.givers.items():
        encoder.set_submodule(name, _with_rows(encoder.get_submodule(name), places(kept, width), name))
    encoder.set_submodule(
        part.reader, _with_columns(encoder.get_submodule(part.reader), places(kept, part.width), part.reader)
    )
    if part.holder is not None:
        _tell(encoder.get_submodule(part.holder), part, kept)


def places(kept: Tensor, width: int) -> Tensor:
    """The positions of whole groups: (K,) to (K · width,)."""
    inside = torch.arange(width, device=kept.device)
    return (kept.unsqueeze(1) * width + inside).flatten()


def _tell(holder: Any, part: Part, kept: Tensor) -> None:
    """Let a module that computes attention know how many heads it has now; of a prefix, cut their keys and values."""
    for name in (*HEAD_COUNTS, *HEADS_WIDTHS):
        before = getattr(holder, name, None)
        if isinstance(before, int):
            setattr(holder, name, before * len(kept) // part.count)
    prefix = getattr(holder, "prefix", None)
    if prefix is not None:
        rows = prefix.rows  # (2, P, G · width of a key)
        columns = places(kept.to(rows.device), rows.shape[-1] // part.count)
        prefix.rows = _parameter(rows, rows.detach()[..., columns])


def _with_rows(layer: nn.Module, rows: Tensor, name: str) -> nn.Linear:
    """The layer with some of its outputs."""
    if not isinstance(layer, nn.Linear):
        raise ValueError(f"{name} cannot be cut: it is a {type(layer).__name__}, and no plain linear layer")
    bias = None if layer.bias is None else _taken(layer.bias, 0, rows)
    return _linear(layer, _taken(layer.weight, 0, rows), bias)


def _with_columns(layer: Any, columns: Tensor, name: str) -> nn.Module:
    """The layer with some of its inputs. What is wrapped around it, and only looks at its outputs, stays."""
    if isinstance(layer, nn.Linear):
        return _linear(layer, _taken(layer.weight, 1, columns), layer.bias)
    if not isinstance(getattr(layer, "base", None), nn.Module) or not hasattr(layer, "adapter"):
        raise ValueError(f"{name} cannot be cut: it is a {type(layer).__name__}, and no plain linear layer")
    layer.base = _with_columns(layer.base, columns, name)
    layer.in_features = len(columns)
    wrapped: nn.Module = layer
    return wrapped


def _taken(parameter: Tensor, dimension: int, positions: Tensor) -> nn.Parameter:
    return _parameter(parameter, parameter.detach().index_select(dimension, positions.to(parameter.device)))


def _parameter(before: Tensor, value: Tensor) -> nn.Parameter:
    """A parameter of another value, trained as the one before it: frozen or not, at its own rate."""
    made = nn.Parameter(value.clone(), requires_grad=before.requires_grad)
    made.__dict__.update(before.__dict__)
    return made


def _linear(before: nn.Linear, weight: nn.Parameter, bias: nn.Parameter | None) -> nn.Linear:
    made = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    made.weight = weight
    if bias is not None:
        made.bias = bias
    return made.train(before.training)
