"""An encoder in which tokens that little attention is paid to leave after each layer, and cost nothing from there on.

Legend: B batch, T tokens, K tokens kept, N positions, L layers, H heads, E width of a head, D width.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from effnlp.data.encodings import Batch
from effnlp.model.classifier import LayerState
from effnlp.model.heads import split_heads
from effnlp.model.prompted import prompt_length


def significance(query: Tensor, key: Tensor, mask: Tensor, is_causal: bool = False) -> Tensor:
    """The attention that each token receives: summed over heads and over the tokens that pay it (section 3.2).

    Args:
        query: (B, H, T, E).
        key: (B, H, T, E).
        mask: (B, T), 1 for tokens; padding neither pays nor receives.
        is_causal: Whether a token pays none to those that follow it.

    Returns:
        (B, T), 0 for padding; of a text with T' tokens all add up to H · T'.
    """
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5  # (B, H, T, T)
    scores = scores.masked_fill(~mask.bool()[:, None, None, :], float("-inf"))
    if is_causal:
        later = torch.ones_like(scores[0, 0], dtype=torch.bool).triu(1)  # (T, T)
        scores = scores.masked_fill(later, float("-inf"))
    paid = scores.softmax(-1) * mask[:, None, :, None]  # (B, H, T, T)
    return paid.sum((1, 2))


def ranked(received: Tensor, mask: Tensor, protected: int) -> Tensor:
    """(B, T): the position of each token among those of its text, 0 for the most significant.

    Args:
        received: (B, T), significance.
        mask: (B, T).
        protected: So many tokens at the beginning come before all others, and padding after them.
    """
    order = received.masked_fill(~mask.bool(), -1.0)
    order[:, :protected] = float("inf")
    places = order.argsort(dim=1, descending=True, stable=True)  # (B, T) tokens by rank
    return places.argsort(dim=1)


def keep_tokens(state: LayerState, kept: Tensor) -> LayerState:
    """The state of some tokens of each text.

    Args:
        kept: (B, K), their positions, ascending.
    """
    tokens = state.hidden.shape[1]

    def select(value: Any) -> Any:
        """Masks of attention are (B or 1, 1 or H, T or 1, T), those of tokens (B, T)."""
        if not isinstance(value, Tensor) or value.dim() < 2 or value.shape[-1] != tokens:
            return value
        if value.dim() == 2:
            return value.expand(len(kept), -1).gather(1, kept)
        rows = value.expand(len(kept), *value.shape[1:])
        index = kept[:, None, None, :]  # (B, 1, 1, K)
        if rows.shape[2] == tokens:
            rows = rows.gather(2, index.transpose(2, 3).expand(-1, rows.shape[1], -1, tokens))
        return rows.gather(3, index.expand(-1, rows.shape[1], rows.shape[2], -1))

    hidden = state.hidden.gather(1, kept.unsqueeze(-1).expand(-1, -1, state.hidden.shape[2]))  # (B, K, D)
    context = {name: select(value) for name, value in state.context.items()}
    return LayerState(hidden, state.mask.gather(1, kept), context)


class TokenDroppingEncoder(nn.Module):
    """Runs a layered encoder; after each layer but the last, the least significant tokens leave.

    Attributes:
        encoder: The encoder as it was.
        counts: (L - 1) how many tokens of a text are left after each layer but the last; a shorter text keeps all.
        retention: (L - 1, N), in [0, 1]: by what a token is multiplied, by layer and rank, while it is learned how
            many to keep; None where that is known.
        is_soft: Whether a training step multiplies by ``retention`` and drops nothing.
    """

    retention: nn.Parameter | None

    def __init__(self, encoder: Any, head_width: int, counts: Sequence[int]) -> None:
        super().__init__()
        self.encoder = encoder
        self.width = int(encoder.width)
        self.head_width = head_width
        # Tokens keep their order, so that what reads from left to right still does; padding stays at the end.
        self.is_causal = any(bool(getattr(module, "causal", False)) for module in encoder.modules())
        self.counts = [int(count) for count in counts]
        self.retention = None
        self.is_soft = False
        self.train(encoder.training)

    @property
    def model_type(self) -> str | None:
        """The family of a pretrained model."""
        return getattr(self.encoder, "model_type", None)

    @property
    def prompt(self) -> Any:
        """What puts trained tokens before those of a text, or None."""
        return getattr(self.encoder, "prompt", None)

    @property
    def protected(self) -> int:
        """How many tokens at the beginning never leave: those of a prompt, and the first of the text, [CLS], say."""
        return prompt_length(self.prompt) + 1

    def linear_roles(self) -> dict[str, list[str]]:
        """Role to the names of the modules in that role."""
        return {
            role: [f"encoder.{name}" for name in names] for role, names in self.encoder.linear_roles().items()
        }

    def forward(self, batch: Batch) -> Tensor:
        """(B, D)."""
        state = self.encoder.embed(batch)
        for index in range(self.encoder.depth):
            state = self._layer(index, state)
        return self.encoder.pool(state)

    def _layer(self, index: int, state: LayerState) -> LayerState:
        """Run a layer, and let tokens leave after it."""
        is_soft = self.is_soft and self.training
        is_last = index == self.encoder.depth - 1
        if is_last or not (is_soft or self.counts[index] < state.hidden.shape[1]):
            return self.encoder.layer(index, state)
        after, received = self._watched(index, state)
        ranks = ranked(received, state.mask, self.protected)  # (B, T)
        if is_soft:
            return replace(after, hidden=after.hidden * self._factors(index, ranks).unsqueeze(-1))
        kept = (ranks < self.counts[index]).nonzero()[:, 1].view(len(ranks), -1)  # (B, K)
        return keep_tokens(after, kept)

    def _factors(self, index: int, ranks: Tensor) -> Tensor:
        """(B, T): the retention of each token; that of protected ones is 1."""
        assert self.retention is not None
        return self.retention[index][ranks].masked_fill(ranks < self.protected, 1.0)

    def _watched(self, index: int, state: LayerState) -> tuple[LayerState, Tensor]:
        """The output of a layer, and the significance (B, T) of the tokens in it.

        What the layer gives as queries and keys is kept while it runs, and their products are made once more: fused
        attention does not tell what it pays. That is a few per cent of a layer, and counted.
        """
        given: dict[str, Tensor] = {}

        def keep(role: str) -> Any:
            return lambda _module, _inputs, output: given.update({role: output.detach()})

        handles = [
            self.encoder.get_submodule(self._of_layer(index, role)).register_forward_hook(keep(role))
            for role in ("query", "key")
        ]
        try:
            after = self.encoder.layer(index, state)
        finally:
            for handle in handles:
                handle.remove()
        with torch.no_grad():
            heads = {role: split_heads(it, it.shape[-1] // self.head_width) for role, it in given.items()}
            return after, significance(heads["query"], heads["key"], state.mask, self.is_causal)

    def _of_layer(self, index: int, role: str) -> str:
        """The name of the module of a layer in a role; layers that share weights share it."""
        names: list[str] = self.encoder.linear_roles()[role]
        return names[index * len(names) // self.encoder.depth]
