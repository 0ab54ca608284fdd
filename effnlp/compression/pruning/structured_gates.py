"""Random gates before heads, inner units and whole layers, and which of them to keep open.

Source: Xia et al. (2022), https://arxiv.org/abs/2204.00408; gates: Louizos et al. (2018),
https://arxiv.org/abs/1712.01312

Legend: B texts, T tokens, D width, G groups of a part, W width of one, z gate in [0, 1], alpha its location.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from effnlp.compression.pruning.groups import multiplied
from effnlp.compression.pruning.hard_concrete import certain_gate, noise_like, open_probability, sampled_gate
from effnlp.model.layers import droppable_layers
from effnlp.model.parts import Part, heads_of, units_of
from effnlp.model.surgery import encoder_of

LOW, HIGH, TEMPERATURE = -0.1, 1.1, 2 / 3
"""Ends and temperature of the gates."""

OPEN_ALPHA = 2.5
"""Where alpha begins: a gate without noise is 1."""


class Gates(nn.Module):
    """Gates side by side: drawn once a batch in training, certain in evaluation, 0 or 1 once they are fixed.

    Fixed, each alpha is infinite, so that the state dict tells.

    Args:
        count: How many.
        learning_rate_factor: Of alpha.
    """

    def __init__(self, count: int, learning_rate_factor: float) -> None:
        super().__init__()
        alpha: Any = nn.Parameter(torch.full((count,), OPEN_ALPHA))
        alpha.learning_rate_factor = learning_rate_factor
        alpha.weight_decay_factor = 0.0  # towards 0 would be towards half-open gates
        self.alpha = alpha
        self.is_fixed = False

    def forward(self) -> Tensor:
        """z, (G,)."""
        if self.is_fixed:
            return (self.alpha > 0).to(self.alpha.dtype)
        if self.training:
            return sampled_gate(self.alpha, noise_like(self.alpha), LOW, HIGH, TEMPERATURE)
        return certain_gate(self.alpha, LOW, HIGH)

    def likely_open(self) -> Tensor:
        """The probability of each not to be 0, (G,)."""
        return open_probability(self.alpha, LOW, HIGH, TEMPERATURE)

    @torch.no_grad()
    def fix(self, keep: Tensor) -> None:
        """Let each gate be 1 where ``keep`` says so, else 0, for good."""
        self.alpha.fill_(-math.inf).masked_fill_(keep.to(self.alpha.device), math.inf)
        self.notice()

    def notice(self) -> None:
        """Learn from alpha whether the gates are fixed: a state that was loaded does not say it otherwise."""
        self.is_fixed = bool(self.alpha.isinf().any())
        self.alpha.requires_grad_(not self.is_fixed)


class GatedGroups(nn.Module):
    """A layer that reads groups, each times its gate.

    Args:
        layer: Reads (…, G · W). It may be wrapped itself.
    """

    def __init__(self, layer: Any, gates: Gates) -> None:
        super().__init__()
        self.layer, self.gates = layer, gates
        self.in_features, self.out_features = int(layer.in_features), int(layer.out_features)

    def forward(self, x: Tensor) -> Tensor:
        """(B, …, G · W) to (B, …, O)."""
        y: Tensor = self.layer(multiplied(x, self.gates().to(x.dtype)))
        return y


def passed_by(layer: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> Any:
    """A hook of a layer with the attribute ``layer_gate``: z times what it gives and 1 - z times what it was given."""
    hidden = args[0] if args else kwargs["hidden_states"]
    z = layer.layer_gate().to(hidden.dtype)  # (1,)
    given = output[0] if isinstance(output, tuple) else output  # (B, T, D)
    mixed = hidden + z * (given - hidden)
    return (mixed, *output[1:]) if isinstance(output, tuple) else mixed


@dataclass(frozen=True)
class GatedLayer:
    """A layer of an encoder with gates.

    Attributes:
        whole: Of the layer itself; None where layers do not go.
        parts: What in it has groups.
        gates: Of each part.
        sizes: Parameters of one group of each part.
    """

    whole: Gates | None
    parts: Sequence[Part]
    gates: Sequence[Gates]
    sizes: Sequence[int]

    @property
    def size(self) -> int:
        """Parameters of all groups."""
        return sum(part.count * size for part, size in zip(self.parts, self.sizes, strict=True))


def size_of_group(encoder: nn.Module, part: Part) -> int:
    """Parameters of one group: its rows where it is given, with their biases, and its columns where it is read."""
    size = part.width * int(encoder.get_submodule(part.reader).out_features)  # type: ignore[arg-type]
    for name, width in part.givers.items():
        giver: Any = encoder.get_submodule(name)
        size += width * (int(giver.in_features) + (giver.bias is not None))
    return size


def parts_by_layer(model: nn.Module) -> list[list[Part]]:
    """The heads and inner units of each layer; in one list where layers are not known one above the other."""
    encoder = encoder_of(model)
    parts = [*heads_of(model), *units_of(model)]
    layers = [{id(module) for module in layer.modules()} for layer in droppable_layers(encoder)]
    readers = {part.reader: id(encoder.get_submodule(part.reader)) for part in parts}
    return [[part for part in parts if readers[part.reader] in inside] for inside in layers]


def with_gates(model: nn.Module, layers_may_go: bool, learning_rate_factor: float) -> None:
    """Put a gate before every head, inner unit and, if they may go, every layer, in place."""
    encoder = encoder_of(model)
    every = parts_by_layer(model)
    for layer, parts in zip(droppable_layers(encoder), every, strict=True):
        for part in parts:
            reader: Any = encoder.get_submodule(part.reader)
            gated = GatedGroups(reader, Gates(part.count, learning_rate_factor)).train(reader.training)
            encoder.set_submodule(part.reader, gated.to(next(reader.parameters()).device))
        if layers_may_go:
            gate = Gates(1, learning_rate_factor).train(layer.training)
            layer.layer_gate = gate.to(next(layer.parameters()).device)
            layer.register_forward_hook(passed_by, with_kwargs=True)


def without_gates(model: nn.Module) -> None:
    """Take them away again, in place."""
    encoder = encoder_of(model)
    for module in list(encoder.modules()):
        if isinstance(getattr(module, "layer_gate", None), Gates):
            del module.layer_gate
            for key, hook in list(module._forward_hooks.items()):
                if hook is passed_by:
                    del module._forward_hooks[key]
                    module._forward_hooks_with_kwargs.pop(key, None)
    for name, module in list(encoder.named_modules()):
        if isinstance(module, GatedGroups):
            encoder.set_submodule(name, module.layer)


def gated_layers(model: nn.Module) -> list[GatedLayer]:
    """The layers of a model with their gates.

    Raises:
        ValueError: If it has none.
    """
    encoder = encoder_of(model)
    if not any(isinstance(module, GatedGroups) for module in encoder.modules()):
        raise ValueError(f"nothing to prune: {type(model).__name__} has no gates")
    found = []
    for layer, parts in zip(droppable_layers(encoder), parts_by_layer(model), strict=True):
        readers: list[Any] = [encoder.get_submodule(part.reader) for part in parts]
        sizes = [size_of_group(encoder, part) for part in parts]
        whole: Any = getattr(layer, "layer_gate", None)
        found.append(GatedLayer(whole, parts, [reader.gates for reader in readers], sizes))
    return found


def expected_sparsity(layers: Sequence[GatedLayer]) -> Tensor:
    """The share of the parameters of groups whose gates, or that of their layer, are expected to be 0: a scalar."""
    left = []
    for layer in layers:
        of_layer = torch.stack(
            [gates.likely_open().sum() * size for gates, size in zip(layer.gates, layer.sizes, strict=True)]
        ).sum()
        left.append(of_layer if layer.whole is None else of_layer * layer.whole.likely_open().squeeze(0))
    return 1 - torch.stack(left).sum() / sum(layer.size for layer in layers)


def most_sparse(layers: Sequence[GatedLayer]) -> float:
    """The largest sparsity at which each layer that stays keeps a group of each part."""
    least = [sum(layer.sizes) for layer in layers]
    may_go = layers[0].whole is not None
    return 1 - (min(least) if may_go else sum(least)) / sum(layer.size for layer in layers)


@torch.no_grad()
def choose_gates(layers: Sequence[GatedLayer], sparsity: float) -> tuple[list[bool], list[list[Tensor]]]:
    """Which layers stay, and which groups of each part, so that the share of parameters that go is ``sparsity``.

    Layers go whose gate without noise is 0, the lowest alpha first, while the target is not passed. Of those that stay
    the groups with the lowest alphas go, of equal ones the first, each that the target, and half of the smallest group
    above it, leaves room for; the best of each part stays. Where that is not enough, another layer goes.

    Returns:
        For each layer whether it stays; for each of its parts a mask (G,), all open where the layer goes.
    """
    target = sparsity * sum(layer.size for layer in layers)
    stays = [True] * len(layers)
    order = sorted(
        (index for index, layer in enumerate(layers) if layer.whole is not None),
        key=lambda index: float(_alpha(layers[index].whole)),
    )
    for index in order:
        is_closed = float(certain_gate(_alpha(layers[index].whole), LOW, HIGH)) == 0
        if not is_closed or _gone(layers, stays) + layers[index].size > target or sum(stays) == 1:
            break
        stays[index] = False
    while (masks := _groups_to(layers, stays, target)) is None:
        stays[next(index for index in order if stays[index])] = False
    return stays, masks


def _alpha(gates: Gates | None) -> Tensor:
    assert gates is not None
    return gates.alpha.detach().float().cpu()


def _gone(layers: Sequence[GatedLayer], stays: Sequence[bool]) -> int:
    return sum(layer.size for layer, stay in zip(layers, stays, strict=True) if not stay)


def _groups_to(
    layers: Sequence[GatedLayer], stays: Sequence[bool], target: float
) -> list[list[Tensor]] | None:
    """Masks of the groups with which the target is met as nearly as can be; None if it is out of reach."""
    masks = [[torch.ones(part.count, dtype=torch.bool) for part in layer.parts] for layer in layers]
    candidates = []
    for i, layer in enumerate(layers):
        for j, gates in enumerate(layer.gates if stays[i] else ()):
            alphas, best = _alpha(gates).tolist(), int(_alpha(gates).argmax())
            candidates += [(a, i, j, g, layer.sizes[j]) for g, a in enumerate(alphas) if g != best]
    gone = float(_gone(layers, stays))
    if gone + sum(size for *_, size in candidates) < target - 0.5:
        return None
    half_a_step = min((size for *_, size in candidates), default=0) / 2
    for _, i, j, group, size in sorted(candidates):
        if gone + size <= target + half_a_step:
            masks[i][j][group] = False
            gone += size
    return masks
