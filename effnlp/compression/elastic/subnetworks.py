"""The smaller networks inside a model: its most important heads and inner units, and some of its layers.

Source: Hou et al. (2020), https://arxiv.org/abs/2004.04037

Legend: B texts, T tokens, D width of the states, C classes, G groups of a part, L layers, m_w width, m_d depth.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from effnlp.compression.pruning.gated_reader import GatedReader, gates_of
from effnlp.compression.pruning.groups import cut
from effnlp.compression.pruning.mask import keep_highest
from effnlp.data.encodings import Batch
from effnlp.model.layers import keep_layers
from effnlp.model.parts import heads_of, units_of
from effnlp.model.surgery import encoder_of


@dataclass(frozen=True)
class Subnetwork:
    """How much of a model is used.

    Attributes:
        width: Share of the heads and of the inner units of each layer, in (0, 1]; m_w.
        depth: Share of the layers, in (0, 1]; m_d.
    """

    width: float
    depth: float

    @property
    def name(self) -> str:
        """As it stands in a key of the record."""
        return f"width_{self.width:g}_depth_{self.depth:g}"

    @property
    def is_whole(self) -> bool:
        """Whether nothing is left out."""
        return self.width == self.depth == 1


@dataclass(frozen=True)
class Answer:
    """What a network makes of a batch.

    Attributes:
        states: Of each layer that was run, (B, T, D).
        mask: (B, T), 1 for tokens.
        logits: (B, C).
    """

    states: Sequence[Tensor]
    mask: Tensor
    logits: Tensor


def count_of(share: float, whole: int) -> int:
    """How many of ``whole`` a share of them is, at least one."""
    return max(1, round(share * whole))


def kept_layers(depth: float, layers: int) -> list[int]:
    """The layers that a network of a depth has: those that go are spread over the model.

    Args:
        depth: m_d.
        layers: L.

    Returns:
        Positions, ascending; the first layer always is among them.
    """
    # Just above: a quotient that floating point puts a hair below a whole number is that number.
    return [math.floor(index / depth + 1e-9) for index in range(count_of(depth, layers))]


def teaching_layers(depth: float, layers: int) -> list[int]:
    """For each layer that a network of a depth has, the layer of the whole model whose states it learns.

    It is the one before the next that is kept, so that what follows finds what it would; of the last, the last.
    """
    return [index - 1 for index in kept_layers(depth, layers)[1:]] + [layers - 1]


def readers_of(model: nn.Module) -> dict[str, GatedReader]:
    """What reads heads and inner units through gates, by name inside the encoder."""
    return gates_of(model, [*heads_of(model), *units_of(model)])


def masks_of(model: nn.Module, width: float) -> dict[str, Tensor]:
    """The groups that a width leaves, (G,): the most important ones of each part. Narrower ones are inside wider ones.

    Raises:
        ValueError: If the model has no gates.
    """
    readers = readers_of(model)
    if not readers:
        raise ValueError(f"{type(model).__name__} has no heads and units of which some could be left out")
    found = {}
    for name, reader in readers.items():
        groups = len(reader.mask)
        found[name] = keep_highest(reader.scores(), groups - count_of(width, groups))
    return found


@contextmanager
def narrowed(model: nn.Module, width: float) -> Iterator[None]:
    """Within it, the model has a width; outside, all of its groups."""
    readers = readers_of(model)
    for name, mask in masks_of(model, width).items():
        readers[name].mask.copy_(mask)
    try:
        yield
    finally:
        for reader in readers.values():
            reader.mask.fill_(True)


@contextmanager
def without_dropout(model: nn.Module) -> Iterator[None]:
    """Within it, each module is in evaluation mode, and in its own after it."""
    was_training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in was_training:
            module.training = True


def answer(model: Any, batch: Batch, network: Subnetwork) -> Answer:
    """What a smaller network makes of a batch; parameters are those of the model.

    Args:
        model: A classifier whose encoder can be run layer by layer, with gates.
    """
    encoder: Any = encoder_of(model)
    states = []
    with narrowed(model, network.width):
        state = encoder.embed(batch)
        for index in kept_layers(network.depth, encoder.depth):
            state = encoder.layer(index, state)
            states.append(state.hidden)  # (B, T, D)
        logits = model.head(model.dropout(encoder.pool(state)))  # (B, C)
    return Answer(states, state.mask, logits)


def distance(student: Answer, teacher: Answer, depth: float) -> Tensor:
    """How far the states of a smaller network are from those of the whole one: a mean over layers, a scalar.

    Of each pair of layers (:func:`teaching_layers`) it is the mean of the squared differences over tokens and width.
    """
    taught = teaching_layers(depth, len(teacher.states))
    mask = student.mask.unsqueeze(-1).to(student.logits.dtype)  # (B, T, 1)
    values = mask.sum() * student.states[0].shape[-1]
    errors = [
        ((ours - teacher.states[layer]).square() * mask).sum() / values
        for ours, layer in zip(student.states, taught, strict=True)
    ]
    return torch.stack(errors).mean()


def carve(model: nn.Module, network: Subnetwork) -> dict[str, float]:
    """Leave of a model with gates a smaller network, without gates, in place.

    Returns:
        How many heads, inner units and layers there were, and how many of them went.

    Raises:
        ValueError: If the model has no gates.
    """
    encoder: Any = encoder_of(model)
    masks, readers = masks_of(model, network.width), readers_of(model)
    kinds = {"heads": heads_of(model), "units": units_of(model)}
    said: dict[str, float] = {"width": network.width, "depth": network.depth}
    for name, reader in readers.items():
        encoder.set_submodule(name, reader.layer)
    for kind, parts in kinds.items():
        cut(model, parts, masks)
        gone = sum(int((~masks[part.reader]).sum()) for part in parts)
        said |= {kind: sum(part.count for part in parts), f"{kind}_removed": gone}
    layers = int(encoder.depth)
    kept = kept_layers(network.depth, layers)
    if len(kept) < layers:
        keep_layers(encoder, kept)
    return said | {"layers": layers, "layers_dropped": layers - len(kept)}
