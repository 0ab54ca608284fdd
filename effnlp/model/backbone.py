"""A pre-norm Transformer encoder trained from scratch, with its tokenizer, on the task's own texts.

Source: Vaswani et al. (2017), https://arxiv.org/abs/1706.03762

Pre-norm blocks as in Xiong et al. (2020), https://arxiv.org/abs/2002.04745; the sizes are the tiny, mini
(here small) and base of Turc et al. (2019), https://arxiv.org/abs/1908.08962. What mixes the tokens is a
part (``model/mixer``).

Legend: B batch, T tokens, D width, F width of the feed-forward layer, V vocabulary.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Protocol

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from effnlp.data.encodings import Batch
from effnlp.model.classifier import Classifier, LayerState, mean_pool
from effnlp.model.memory import Past, Recall
from effnlp.model.prompted import before_text, prompt_length, prompted
from effnlp.model.subwords import PAD_ID, SubwordTokenizer, train_byte_bpe
from effnlp.model.vocabulary import tokenizer_of

PROVIDES = {
    "build": (
        "embeddings",
        "token_sequence",
        "linear_layers",
        "float_linear_layers",
        "trainable_weights",
        "biases",
        "layer_outputs",
        "learning_layers",
        "uninterrupted_training",
        "own_tokenizer",
        "both_directions",
    )
}


@dataclass(frozen=True)
class Size:
    """The shape of the block stack."""

    depth: int
    width: int  # D
    heads: int
    feedforward_width: int  # F


SIZES = {
    "tiny": Size(depth=2, width=128, heads=2, feedforward_width=512),
    "small": Size(depth=4, width=256, heads=4, feedforward_width=1024),
    "base": Size(depth=12, width=768, heads=12, feedforward_width=3072),
}

POSITIONS = ("learned", "sinusoidal")
EMBEDDING_STD = 0.02


class Mixer(Protocol):
    """What a config of the group ``model/mixer`` builds, called as ``mixer(width=…, heads=…)``.

    An ``nn.Module`` whose forward maps hidden states (B, T, D) and a mask (B, T) to (B, T, D);
    what is masked must change nothing elsewhere. One that has a parameter ``causal`` can read from left to right
    alone; one that has not requires ``both_directions``. One that reads a text bit by bit takes ``recall``, a
    :class:`~effnlp.model.memory.Recall`, and has the attribute ``remember``. One whose attention can read a prefix has
    the attributes ``prefix`` and ``prefix_width`` (:mod:`effnlp.model.prefixed`).
    """

    def linear_roles(self) -> dict[str, str]:
        """Role to the name of the module in that role."""
        ...


class FeedForward(nn.Module):
    """Two linear layers with a GELU between them, applied to each token."""

    def __init__(self, width: int, feedforward_width: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, feedforward_width)
        self.down = nn.Linear(feedforward_width, width)

    def linear_roles(self) -> dict[str, str]:
        """Role to the name of the module in that role."""
        return {"feedforward_up": "up", "feedforward_down": "down"}

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, T, D) to (B, T, D)."""
        return self.down(gelu(self.up(hidden)))


class Block(nn.Module):
    """One layer: mix the tokens, then transform each; both parts add to the residual stream."""

    def __init__(self, width: int, feedforward_width: int, mixer: nn.Module, dropout: float) -> None:
        super().__init__()
        self.mixer_norm = nn.LayerNorm(width)
        self.mixer = mixer
        self.feedforward_norm = nn.LayerNorm(width)
        self.feedforward = FeedForward(width, feedforward_width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor, mask: Tensor, recall: Recall | None = None) -> Tensor:
        """``hidden`` (B, T, D) and ``mask`` (B, T) to (B, T, D); ``recall`` is the mixer's."""
        recalled = {} if recall is None else {"recall": recall}
        hidden = hidden + self.dropout(self.mixer(self.mixer_norm(hidden), mask, **recalled))
        return hidden + self.dropout(self.feedforward(self.feedforward_norm(hidden)))


def sinusoidal_table(length: int, width: int) -> Tensor:
    """Fixed positions (``length``, ``width``): sines in the even columns, cosines in the odd ones."""
    position = torch.arange(length, dtype=torch.float32).unsqueeze(1)  # (length, 1)
    rate = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))  # (ceil(width / 2),)
    table = torch.empty(length, width)
    table[:, 0::2] = torch.sin(position * rate)
    table[:, 1::2] = torch.cos(position * rate)[:, : width // 2]
    return table


class BackboneEncoder(nn.Module):
    """Embeddings, blocks, final norm and mean over the tokens; can be run layer by layer.

    Args:
        size: Depth and widths.
        mixer: Builds what mixes the tokens of one layer.
        vocabulary_size: V.
        max_length: Longest input in tokens.
        dropout: Rate on the embeddings and on each residual branch, in [0, 1).
        positions: ``learned`` or ``sinusoidal``.
        pairs: Whether inputs are pairs of texts, told apart by a type embedding.

    Attributes:
        prompt: Puts trained tokens before those of a text (:mod:`effnlp.model.prompted`), or None.
    """

    fixed_positions: Tensor
    prompt: nn.Module | None

    def __init__(
        self,
        size: Size,
        mixer: Callable[..., nn.Module],
        vocabulary_size: int,
        max_length: int,
        dropout: float = 0.1,
        positions: str = "learned",
        pairs: bool = False,
    ) -> None:
        super().__init__()
        if positions not in POSITIONS:
            raise ValueError(f"positions must be one of {', '.join(POSITIONS)}, got {positions!r}")
        self.width = size.width
        self.max_length = max_length
        self.prompt = None
        self.tokens = nn.Embedding(vocabulary_size, size.width)
        self.types = nn.Embedding(2, size.width) if pairs else None
        self.positions: nn.Embedding | None = None
        if positions == "learned":
            self.positions = nn.Embedding(max_length, size.width)
        else:
            # The paper scales the words up to the sinusoids; here the sinusoids come down to the words.
            table = sinusoidal_table(max_length, size.width) * (EMBEDDING_STD * math.sqrt(2))
            self.register_buffer("fixed_positions", table, persistent=False)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            Block(size.width, size.feedforward_width, mixer(width=size.width, heads=size.heads), dropout)
            for _ in range(size.depth)
        )
        self.norm = nn.LayerNorm(size.width)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=EMBEDDING_STD)
            elif isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        # Each branch adds to the residual stream: scaled so that its variance does not grow with depth.
        roles = self.linear_roles()
        with torch.no_grad():
            for name in [*roles.get("attention_output", []), *roles["feedforward_down"]]:
                self.get_parameter(f"{name}.weight").div_(math.sqrt(2 * self.depth))

    @property
    def depth(self) -> int:
        """How many layers there are."""
        return len(self.layers)

    def linear_roles(self) -> dict[str, list[str]]:
        """Role to the names of the modules in that role, one a layer."""
        names: dict[str, list[str]] = {}
        for i, block in enumerate(self.layers):
            for part in ("mixer", "feedforward"):
                for role, name in getattr(block, part).linear_roles().items():
                    names.setdefault(role, []).append(f"layers.{i}.{part}.{name}")
        return names

    def prefix_readers(self) -> dict[str, int]:
        """Names of the mixers whose attention can read a prefix, to the width of its keys."""
        return {
            f"layers.{i}.mixer": width
            for i, block in enumerate(self.layers)
            if (width := getattr(block.mixer, "prefix_width", None)) is not None
        }

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
        words = prompted(self.prompt, self.tokens(batch["input_ids"]), self.position_count)  # (B, T, D)
        table = self.fixed_positions if self.positions is None else self.positions.weight
        hidden = words + table[: words.shape[1]]  # (B, T, D)
        if self.types is not None:
            types = batch.get("token_type_ids")
            of_type = self.types.weight[0] if types is None else self.types(before_text(types, before, 0))
            hidden = hidden + of_type
        return LayerState(self.dropout(hidden), mask)

    def layer(self, index: int, state: LayerState) -> LayerState:
        """Run layer ``index`` (0-based)."""
        return replace(state, hidden=self.layers[index](state.hidden, state.mask))

    def pool(self, state: LayerState) -> Tensor:
        """(B, D): the mean over the tokens of the text after the final norm."""
        before = prompt_length(self.prompt)
        return mean_pool(self.norm(state.hidden[:, before:]), state.mask[:, before:])

    def states(self, batch: Batch) -> Tensor:
        """(B, T, D): of each token of the text, after the final norm."""
        return self.norm(self._last(batch).hidden[:, prompt_length(self.prompt) :])

    def check_reads_on(self) -> None:
        """Refuse to read bit by bit where that is not reading at once.

        Raises:
            ValueError: If a mixer reads tokens that follow, or keeps nothing of those it has read.
        """
        for mixer in (block.mixer for block in self.layers):
            if not getattr(mixer, "causal", False):
                raise ValueError(f"{type(mixer).__name__} reads tokens that follow, and so cannot read on")
            if not hasattr(mixer, "remember"):
                raise ValueError(
                    f"{type(mixer).__name__} keeps nothing of what it has read, and so cannot read on"
                )

    def read_on(self, batch: Batch, past: Past) -> Tensor:
        """(B, T, D): the states of tokens that follow those of ``past``, which takes them up. No gradients.

        Raises:
            ValueError: If a text gets longer than ``position_count``.
        """
        prompt = None if past.lengths else self.prompt
        before = prompt_length(prompt)
        places = past.places(batch["attention_mask"], before, self.position_count)
        words = prompted(prompt, self.tokens(batch["input_ids"]), self.position_count)  # (B, T, D)
        table = self.fixed_positions if self.positions is None else self.positions.weight
        hidden = words + table[places.positions(words.device)]  # (B, T, D)
        if self.types is not None:
            types = batch.get("token_type_ids")
            hidden = hidden + (
                self.types.weight[0] if types is None else self.types(before_text(types, before, 0))
            )
        mask = before_text(batch["attention_mask"], before, 1)
        for index, block in enumerate(self.layers):
            mixer: Any = block.mixer
            hidden = block(hidden, mask, past.recall(index, mixer.remember, places))
        past.lengths = places.ends
        return self.norm(hidden[:, before:])

    def forward(self, batch: Batch) -> Tensor:
        """(B, D)."""
        return self.pool(self._last(batch))

    def _last(self, batch: Batch) -> LayerState:
        state = self.embed(batch)
        for index in range(self.depth):
            state = self.layer(index, state)
        return state


class Backbone:
    """The choice ``model=backbone``.

    Args:
        mixer: What mixes the tokens, called as ``mixer(width=…, heads=…)``.
        size: ``tiny``, ``small`` or ``base``.
        max_length: Longest input in tokens; what is longer is cut.
        vocabulary: Whose tokens it reads: None, those learned from the training split; or those of a pretrained model,
            ``minilm``, a folder or a name on the hub. A teacher that is looked at layer by layer reads the same.
        vocabulary_size: V at most, where it is learned; a small training split gives fewer.
        dropout: Rate on the embeddings, on each residual branch and before the head, in [0, 1).
        positions: ``learned`` or ``sinusoidal``.
    """

    tokenizer_keys: ClassVar[tuple[str, ...]] = ("max_length", "vocabulary", "vocabulary_size")
    is_decoder: ClassVar[bool] = False
    """Whether no token sees one that follows it, and the tokenizer loses nothing of a text."""

    def __init__(
        self,
        mixer: Callable[..., nn.Module],
        size: str = "tiny",
        max_length: int = 128,
        vocabulary: str | None = None,
        vocabulary_size: int = 8192,
        dropout: float = 0.1,
        positions: str = "learned",
    ) -> None:
        if size not in SIZES:
            raise ValueError(f"size must be one of {', '.join(SIZES)}, got {size!r}")
        self.mixer = mixer
        self.size = size
        self.max_length = max_length
        self.vocabulary = vocabulary
        self.vocabulary_size = vocabulary_size
        self.dropout = dropout
        self.positions = positions

    def tokenizer(self, train: pd.DataFrame) -> SubwordTokenizer:
        """That of ``vocabulary``, or byte-level BPE learned from the texts of the training split (of pairs, both)."""
        if self.vocabulary is not None:
            return tokenizer_of(self.vocabulary, self.max_length)
        is_pair = "text_pair" in train.columns
        texts = [*train["text"], *(train["text_pair"] if is_pair else ())]
        backend = train_byte_bpe(texts, self.vocabulary_size, is_lossless=self.is_decoder)
        return SubwordTokenizer(backend, self.max_length, PAD_ID, type_ids=is_pair)

    def build(self, tokenizer: SubwordTokenizer, classes: int) -> Classifier:
        """A model with fresh weights for what ``tokenizer`` gives."""
        encoder = BackboneEncoder(
            SIZES[self.size],
            partial(self.mixer, causal=True) if self.is_decoder else self.mixer,
            tokenizer.vocabulary_size,
            tokenizer.max_length,
            self.dropout,
            self.positions,
            pairs=tokenizer.type_ids,
        )
        return Classifier(encoder, classes, self.dropout)
