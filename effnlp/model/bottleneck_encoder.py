"""The encoder of ``model=bottleneck``: layers that are wide outside and narrow inside.

Source: Sun et al. (2020), https://arxiv.org/abs/2004.02984

Legend: B batch, T tokens, D width, E inner width, W width of the embeddings, F width of a feed-forward layer, V
vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, relu

from effnlp.data.encodings import Batch
from effnlp.model.classifier import LayerState, mean_pool
from effnlp.model.mixer.attention import Attention
from effnlp.model.prompted import before_text, prompt_length, prompted

EMBEDDING_STD = 0.02


class Affine(nn.Module):
    """A factor and an offset for each component, in place of a norm: nothing is summed up (section 3.4).

    Args:
        width: Of the last dimension.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, hidden: Tensor) -> Tensor:
        """(…, width) to the same."""
        return hidden * self.weight + self.bias


NORMS: dict[str, type[nn.Module]] = {"layer": nn.LayerNorm, "affine": Affine}


@dataclass(frozen=True)
class Shape:
    """The widths of an encoder; names are those of the paper's table 1.

    Attributes:
        depth: Layers.
        width: D, h_inter.
        inner_width: E, h_intra.
        embedding_width: W, h_embedding.
        heads: Of attention.
        feedforward_width: F.
        feedforwards: Feed-forward layers after each attention, at least 1.
        wide_values: Whether values are read at width D and not behind the bottleneck.
    """

    depth: int = 4
    width: int = 256
    inner_width: int = 64
    embedding_width: int = 64
    heads: int = 4
    feedforward_width: int = 256
    feedforwards: int = 4
    wide_values: bool = True


MOBILEBERT = Shape(24, 512, 128, 128, 4, 512, 4)
"""The published configuration."""

MOBILEBERT_TINY = replace(MOBILEBERT, feedforwards=2, wide_values=False)
"""Its smaller sister."""


class FeedForward(nn.Module):
    """Two linear layers with a ReLU between them, added to their input; then a norm."""

    def __init__(self, shape: Shape, norm: type[nn.Module]) -> None:
        super().__init__()
        self.up = nn.Linear(shape.inner_width, shape.feedforward_width)
        self.down = nn.Linear(shape.feedforward_width, shape.inner_width)
        self.norm = norm(shape.inner_width)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, T, E) to (B, T, E)."""
        normed: Tensor = self.norm(hidden + self.down(relu(self.up(hidden))))
        return normed


class BottleneckBlock(nn.Module):
    """One layer: into the bottleneck, mix the tokens, transform each several times, and out again (figure 1)."""

    def __init__(self, shape: Shape, norm: type[nn.Module], dropout: float) -> None:
        super().__init__()
        inner, width = shape.inner_width, shape.width
        self.enter = nn.Linear(width, inner)
        self.enter_norm = norm(inner)
        # One more entrance, which queries and keys share, where values have none.
        self.compare = nn.Linear(width, inner) if shape.wide_values else None
        self.compare_norm = norm(inner) if shape.wide_values else None
        self.mixer = Attention(inner, shape.heads, value_width=width if shape.wide_values else None)
        self.mixer_norm = norm(inner)
        self.feedforwards = nn.ModuleList(FeedForward(shape, norm) for _ in range(shape.feedforwards))
        self.leave = nn.Linear(inner, width)
        self.leave_norm = norm(width)
        self.dropout = nn.Dropout(dropout)

    def linear_roles(self) -> dict[str, list[str]]:
        """Role to the names of the modules in that role, in the order in which they act."""
        of_mixer = {role: [f"mixer.{name}"] for role, name in self.mixer.linear_roles().items()}
        places = range(len(self.feedforwards))
        return {
            "bottleneck_in": ["enter", *(["compare"] if self.compare is not None else [])],
            **of_mixer,
            "feedforward_up": [f"feedforwards.{i}.up" for i in places],
            "feedforward_down": [f"feedforwards.{i}.down" for i in places],
            "bottleneck_out": ["leave"],
        }

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """``hidden`` (B, T, D) and ``mask`` (B, T) to (B, T, D)."""
        inner = self.enter_norm(self.enter(hidden))  # (B, T, E)
        if self.compare is None or self.compare_norm is None:
            mixed = self.mixer(inner, mask)  # (B, T, E)
        else:
            mixed = self.mixer(self.compare_norm(self.compare(hidden)), mask, of_values=hidden)  # (B, T, E)
        inner = self.mixer_norm(inner + mixed)  # (B, T, E)
        for feedforward in self.feedforwards:
            inner = feedforward(inner)
        out: Tensor = self.leave_norm(hidden + self.dropout(self.leave(inner)))  # (B, T, D)
        return out


class BottleneckEncoder(nn.Module):
    """Embeddings, bottlenecked layers and the mean over the tokens; can be run layer by layer.

    Args:
        shape: Its widths.
        vocabulary_size: V.
        max_length: Longest input in tokens.
        dropout: Rate on the embeddings and at the exit of each layer, in [0, 1).
        norm: ``layer`` or ``affine``.
        pairs: Whether inputs are pairs of texts, told apart by a type embedding.

    Attributes:
        prompt: Puts trained tokens before those of a text (:mod:`effnlp.model.prompted`), or None.
    """

    prompt: nn.Module | None

    def __init__(
        self,
        shape: Shape,
        vocabulary_size: int,
        max_length: int,
        dropout: float = 0.1,
        norm: str = "layer",
        pairs: bool = False,
    ) -> None:
        super().__init__()
        made = NORMS[norm]
        self.width = shape.width
        self.max_length = max_length
        self.prompt = None
        self.tokens = nn.Embedding(vocabulary_size, shape.embedding_width)
        self.widen = nn.Linear(3 * shape.embedding_width, shape.width)
        self.positions = nn.Embedding(max_length, shape.width)
        self.types = nn.Embedding(2, shape.width) if pairs else None
        self.embedding_norm = made(shape.width)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(BottleneckBlock(shape, made, dropout) for _ in range(shape.depth))
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=EMBEDDING_STD)
            elif isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    @property
    def depth(self) -> int:
        """How many layers there are."""
        return len(self.layers)

    def linear_roles(self) -> dict[str, list[str]]:
        """Role to the names of the modules in that role, from the input on."""
        names: dict[str, list[str]] = {"embedding_out": ["widen"]}
        for i, block in enumerate(self.layers):
            roles: dict[str, Sequence[str]] = block.linear_roles()  # type: ignore[operator]
            for role, found in roles.items():
                names.setdefault(role, []).extend(f"layers.{i}.{name}" for name in found)
        return names

    def prefix_readers(self) -> dict[str, int]:
        """Names of the modules whose attention can read a prefix, to the width of its keys."""
        return {f"layers.{i}.mixer": block.mixer.prefix_width for i, block in enumerate(self.layers)}  # type: ignore[union-attr, misc]

    @property
    def position_count(self) -> int:
        """How many tokens can be told apart by their position."""
        return self.max_length

    def word_embeddings(self) -> nn.Embedding:
        """The table of the tokens."""
        return self.tokens

    def embed(self, batch: Batch) -> LayerState:
        """The input of layer 0; where there is a prompt, T is its tokens and those of the text.

        Raises:
            ValueError: If the batch is longer than ``max_length``.
        """
        before = prompt_length(self.prompt)
        mask = before_text(batch["attention_mask"], before, 1)
        words = prompted(self.prompt, self.tokens(batch["input_ids"]), self.position_count)  # (B, T, W)
        words = words * mask.unsqueeze(-1).to(words.dtype)  # padding is no neighbour
        after, ahead = pad(words[:, 1:], (0, 0, 0, 1)), pad(words[:, :-1], (0, 0, 1, 0))  # (B, T, W) each
        hidden = self.widen(torch.cat([after, words, ahead], -1))  # (B, T, D)
        hidden = hidden + self.positions.weight[: words.shape[1]]
        if self.types is not None:
            types = batch.get("token_type_ids")
            of_type = self.types.weight[0] if types is None else self.types(before_text(types, before, 0))
            hidden = hidden + of_type
        return LayerState(self.dropout(self.embedding_norm(hidden)), mask)

    def layer(self, index: int, state: LayerState) -> LayerState:
        """Run layer ``index`` (0-based)."""
        return replace(state, hidden=self.layers[index](state.hidden, state.mask))

    def pool(self, state: LayerState) -> Tensor:
        """(B, D): the mean over the tokens of the text."""
        before = prompt_length(self.prompt)
        return mean_pool(state.hidden[:, before:], state.mask[:, before:])

    def forward(self, batch: Batch) -> Tensor:
        """(B, D)."""
        state = self.embed(batch)
        for index in range(self.depth):
            state = self.layer(index, state)
        return self.pool(state)
