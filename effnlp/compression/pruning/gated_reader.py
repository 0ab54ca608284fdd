"""A layer that reads groups through gates that are open or closed, and remembers how much the loss follows each.

Source: Michel et al. (2019), https://arxiv.org/abs/1905.10650

Legend: B rows of a batch, G groups of a part (heads of a layer, or its inner units), W width of one.
"""

from typing import Any

import torch
from torch import Tensor, nn

from effnlp.compression.pruning.groups import multiplied
from effnlp.model.parts import Part
from effnlp.model.surgery import encoder_of

MEMORY = 0.95
"""How much of the running mean of importances a further batch leaves as it was."""


class GatedReader(nn.Module):
    """A layer that reads groups, before each of which stands a mask variable; it remembers how the loss follows them.

    Args:
        layer: Reads (…, G · W). It may be wrapped itself.
        count: G.

    Attributes:
        mask: (G,), which groups are still there.
        importance: (G,), a running mean over batches of the mean of |dL/dxi| over the rows of a batch.
        remembers: Whether training goes on with that mean.
    """

    mask: Tensor
    importance: Tensor

    def __init__(self, layer: Any, count: int) -> None:
        super().__init__()
        self.layer = layer
        self.in_features, self.out_features = int(layer.in_features), int(layer.out_features)
        # Part of the state: a resumed run goes on with what it knew.
        self.register_buffer("mask", torch.ones(count, dtype=torch.bool))
        self.register_buffer("importance", torch.zeros(count))
        self.remembers = True

    def forward(self, x: Tensor) -> Tensor:
        """(B, …, G · W) to (B, …, O)."""
        gates = self.mask.to(x.dtype)
        if self.remembers and self.training and torch.is_grad_enabled():
            gates = gates.expand(len(x), -1).clone().requires_grad_()  # (B, G)
            gates.register_hook(self._remember)
        y: Tensor = self.layer(multiplied(x, gates))
        return y

    def _remember(self, gradient: Tensor) -> None:
        self.importance.lerp_(gradient.detach().abs().mean(0).to(self.importance.dtype), 1 - MEMORY)

    def scores(self) -> Tensor:
        """(G,): how much a group matters; where no gradient was seen yet, how large the weights are that read it.

        What is gone has 0.
        """
        scores = self.importance
        if not scores.any():
            linear: Any = self.layer
            while not isinstance(linear, nn.Linear):
                linear = linear.base
            scores = linear.weight.detach().unflatten(1, (len(scores), -1)).float().norm(dim=(0, 2))
        return scores.where(self.mask, 0.0)


def gates_of(model: nn.Module, parts: list[Part]) -> dict[str, GatedReader]:
    """The readers of parts that have gates, by name."""
    encoder = encoder_of(model)
    found = {part.reader: encoder.get_submodule(part.reader) for part in parts}
    return {name: module for name, module in found.items() if isinstance(module, GatedReader)}
